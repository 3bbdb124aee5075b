"""The channels that a worker publishes over: replaced after refusals, seldom, and at nobody's cost."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue
from pamqp.commands import Channel
from pamqp.frame import marshal

from schema import names
from sql.connection import Connection
from tests.chaos.proxy import CHUNK_BYTES, Proxy
from tests.conftest import running_worker
from tests.resilience.conftest import Wires, opened, through
from tests.resilience.observing import Log, until, until_serving
from tests.wire import WAIT_S, Wire
from worker.broker.link import SessionLost, open_link
from worker.broker.publisher import CHANNEL_AGE_MIN_S, Publisher, open_publisher
from worker.database.pool import Pool
from worker.limits import WorkerLimits
from worker.settings import BrokerSettings, WorkerSettings

ALERTS = 100
"""So many are published at one time."""

WATCH_S = 5

QUICK_RETRIES = WorkerLimits(alerts_interval_s=0.1, alert_delay_first_s=0.1, alert_delay_max_s=0.1)

DEAD_LETTERS = 20
QUICK_S = 3.0
"""What waits for nobody takes no longer than this, also on a machine that is shared."""

UNDER_WAY = 20
REPLACEMENTS = 3


class CountsChannels(Proxy):
    """Counts the channels that clients open."""

    OPEN = marshal(Channel.Open(), 1)[3:]
    """The frame Channel.Open without its type and the number of its channel."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.channels = 0

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        while data := await reader.read(CHUNK_BYTES):
            self.channels += (rest + data).count(self.OPEN)
            rest = (rest + data)[1 - len(self.OPEN) :]
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one side is gone, so the other goes too


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[CountsChannels]:
    """The wire for publishing."""
    async with opened(amqp_url, CountsChannels) as found:
        yield found


@pytest.fixture
async def full(wire: Wire) -> AbstractQueue:
    """A queue that refuses whatever comes."""
    queue = await wire.channel.declare_queue(
        exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await wire.channel.default_exchange.publish(aio_pika.Message(b"first"), queue.name)
    return queue


async def test_a_subscriber_whose_queue_is_full_costs_a_channel_a_second_at_most(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    connection: Connection,
    log: Log,
    wires: Wires,
    proxy: CountsChannels,
    full: AbstractQueue,
) -> None:
    """And dead letters do not wait for it."""
    wires.proxies["publishing"] = proxy
    async with running_worker(settings, pool, replace(wires.parts, limits=QUICK_RETRIES)):
        await until_serving(wire)
        await full.bind(names.ALERTS_EXCHANGE, "#")
        await connection.execute(
            "INSERT INTO alerts (org_id, event_id, occurred_at, run_id, claim_count, claim_ids, earlier_run_ids, "
            "found_by, next_attempt_at) SELECT 'org-' || number % 20, gen_random_uuid(), now(), gen_random_uuid(), 1,"
            " '{c}', '{}', 'repeated-in-run', now() FROM generate_series(1, $1::integer) AS number",
            ALERTS,
        )
        await log.until("alerts_not_confirmed", 3)
        before, channels_before, started_s = len(log.of("alerts_not_confirmed")), proxy.channels, time.monotonic()
        async with asyncio.timeout(QUICK_S):
            for _ in range(DEAD_LETTERS):
                await wire.publish("run-created", {"not": "an event"})
            await log.until("event_dead_lettered", DEAD_LETTERS)
        await asyncio.sleep(WATCH_S)
        channels = proxy.channels - channels_before
        passed_s = time.monotonic() - started_s
        lines = log.of("alerts_not_confirmed")[before:]
        assert sum(line["alerts"] for line in lines) > ALERTS
        assert 1 <= channels <= passed_s / CHANNEL_AGE_MIN_S + 1
    assert log.of("dead_letter_not_confirmed") == log.of("session_lost") == []


@dataclass
class Publishing:
    """A publisher, and what was lost of it."""

    publisher: Publisher
    losses: list[str]

    async def is_confirmed(self, queue: AbstractQueue) -> bool:
        """Publish a message to a queue; returns whether RabbitMQ has confirmed it."""
        message = aio_pika.Message(b"{}", message_id=str(uuid4()))
        return await self.publisher.publish("", queue.name, message, WAIT_S)


@pytest.fixture
async def publishing(amqp_url: str, proxy: CountsChannels) -> AsyncIterator[Publishing]:
    """A publisher whose channels are counted."""
    settings = BrokerSettings.model_validate({"amqp_url": through(amqp_url, proxy)})
    losses: list[str] = []
    async with (
        open_link(settings, "publishing", losses.append) as link,
        open_publisher(link, losses.append) as publisher,
    ):
        yield Publishing(publisher, losses)


async def until_replaced(publishing: Publishing, proxy: CountsChannels, full: AbstractQueue, times: int = 1) -> None:
    """Have RabbitMQ refuse messages until so many channels have taken the place of another."""
    channels = proxy.channels + times

    async def is_replaced() -> bool:
        assert not await publishing.is_confirmed(full)
        return proxy.channels >= channels

    await until(is_replaced)


async def test_what_waits_for_a_confirm_keeps_its_channel(
    publishing: Publishing, proxy: CountsChannels, wire: Wire, full: AbstractQueue
) -> None:
    """Other messages go on all the time. None of them is refused, and no channel stays open that nobody needs."""
    sound = await wire.channel.declare_queue(exclusive=True)
    replaced = asyncio.Event()
    confirmed = 0

    async def publish() -> None:
        nonlocal confirmed
        while not replaced.is_set():
            assert await publishing.is_confirmed(sound)
            confirmed += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(UNDER_WAY):
            tasks.create_task(publish())
        await until_replaced(publishing, proxy, full, REPLACEMENTS)
        replaced.set()
    channels = publishing.publisher.link.underlay.connection.channels
    await until(lambda: len(channels) == len(["of the link", "of the publisher"]))
    assert await wire.count_in(sound.name) == confirmed
    assert publishing.losses == []


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_channel_that_rabbitmq_closes_is_a_loss(
    publishing: Publishing, proxy: CountsChannels, full: AbstractQueue, *, is_first: bool
) -> None:
    if not is_first:
        await until_replaced(publishing, proxy, full)
        await asyncio.sleep(2 * CHANNEL_AGE_MIN_S)
        assert publishing.losses == []
    with pytest.raises(SessionLost, match="404 NOT_FOUND"):
        await publishing.publisher.publish("no-such-exchange", "", aio_pika.Message(b"{}"), WAIT_S)
    await until(lambda: publishing.losses)
    assert publishing.losses[0].startswith("the channel for publishing closed: 404 NOT_FOUND")
    with pytest.raises(SessionLost):
        await publishing.is_confirmed(full)
