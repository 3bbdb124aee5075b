"""The alerts of one turn: how often each is published, and what holds up the others."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aio_pika.abc import AbstractQueue
from pamqp.commands import Basic
from pamqp.frame import marshal

from schema import names
from schema.alerts import DOUBLE_EXPORT_DETECTED
from sql.connection import Connection
from tests.chaos.proxy import CHUNK_BYTES, Proxy
from tests.conftest import running_worker
from tests.resilience.conftest import Wires, opened
from tests.resilience.observing import Log, until, until_serving
from tests.wire import Wire
from worker.database.pool import Pool
from worker.limits import DEFAULT_LIMITS, WorkerLimits
from worker.settings import WorkerSettings

ALERTS = DEFAULT_LIMITS.alert_organisations_max * DEFAULT_LIMITS.alerts_of_organisation_max
"""As many as one turn has."""

TOGETHER_S = 10
PATIENT = WorkerLimits(alerts_interval_s=0.1, alert_publish_timeout_s=14)
QUICK_RETRIES = WorkerLimits(alerts_interval_s=0.1, alert_delay_first_s=0.2, alert_delay_max_s=0.8)


def frame(exchange: str) -> bytes:
    """What is published to an exchange as an alert begins with: the frame Basic.Publish, without its channel."""
    return marshal(Basic.Publish(exchange=exchange, routing_key=DOUBLE_EXPORT_DETECTED, mandatory=True), 1)[3:]


FRAMES = {exchange: frame(exchange) for exchange in (names.ALERTS_EXCHANGE, names.UNROUTABLE_ALERTS_EXCHANGE)}


class AlertWire(Proxy):
    """Counts the alerts that a worker publishes, and can stop all that comes after the first one."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.alerts = dict.fromkeys(FRAMES, 0)
        """How many were published to each exchange."""
        self.way_to_broker = asyncio.Event()
        self.way_to_worker = asyncio.Event()
        self.way_to_broker.set()
        self.way_to_worker.set()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_to_broker = writer in self._to_server
        way = self.way_to_broker if is_to_broker else self.way_to_worker
        rest = b""
        while data := await reader.read(CHUNK_BYTES):
            if is_to_broker:
                for exchange, pattern in FRAMES.items():
                    before = len(pattern) - 1  # a frame may come in two pieces
                    self.alerts[exchange] += ((rest[-before:] if rest else b"") + data).count(pattern)
                rest = (rest + data)[-CHUNK_BYTES:]
            if sum(self.alerts.values()) > 1:
                await way.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one side is gone, so the other goes too


@pytest.fixture
async def proxy(amqp_url: str, wires: Wires) -> AsyncIterator[AlertWire]:
    """The wire that a worker publishes alerts over."""
    async with opened(amqp_url, AlertWire) as found:
        wires.proxies["publishing"] = found
        yield found


@pytest.fixture
async def subscriber(wire: Wire) -> AbstractQueue:
    """A queue that may be bound to the exchange of the alerts."""
    return await wire.channel.declare_queue(exclusive=True)


async def insert_alerts(connection: Connection) -> None:
    """Alerts that are one turn of the outbox."""
    await connection.execute(
        "INSERT INTO alerts (org_id, event_id, occurred_at, run_id, claim_count, claim_ids, earlier_run_ids, found_by,"
        " next_attempt_at) SELECT 'org-' || number % $2, gen_random_uuid(), now(), gen_random_uuid(), 1, '{c}', '{}',"
        " 'repeated-in-run', now() FROM generate_series(1, $1::integer) AS number",
        ALERTS,
        DEFAULT_LIMITS.alert_organisations_max,
    )


async def is_empty(connection: Connection) -> bool:
    """Whether no alert is left in the outbox."""
    return not await connection.fetchval("SELECT count(*) FROM alerts")


async def event_ids(wire: Wire, queue: str) -> list[str]:
    """The events of all alerts in a queue, which is empty afterwards."""
    count = await wire.count_in(queue)
    return [json.loads((await wire.take_from(queue)).body)["eventId"] for _ in range(count)]


async def test_an_alert_without_a_subscriber_is_published_once(
    settings: WorkerSettings, pool: Pool, wire: Wire, wires: Wires, connection: Connection, proxy: AlertWire
) -> None:
    """Only the first of a turn looks for a subscriber."""
    async with running_worker(settings, pool, replace(wires.parts, limits=QUICK_RETRIES)):
        await until_serving(wire)
        await insert_alerts(connection)
        await until(lambda: is_empty(connection))
    assert len(set(await event_ids(wire, names.ALERTS_QUEUE))) == ALERTS
    assert proxy.alerts == {names.ALERTS_EXCHANGE: 1, names.UNROUTABLE_ALERTS_EXCHANGE: ALERTS}


async def test_the_alerts_of_a_turn_do_not_wait_for_each_others_confirms(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    wires: Wires,
    connection: Connection,
    log: Log,
    proxy: AlertWire,
    subscriber: AbstractQueue,
) -> None:
    """All but the first: that one finds out whether there is a subscriber."""
    async with running_worker(settings, pool, replace(wires.parts, limits=PATIENT)):
        await until_serving(wire)
        await subscriber.bind(names.ALERTS_EXCHANGE, "#")
        proxy.way_to_worker.clear()
        await insert_alerts(connection)
        await until(lambda: proxy.alerts[names.ALERTS_EXCHANGE] == ALERTS, TOGETHER_S)
        proxy.way_to_worker.set()
        await until(lambda: is_empty(connection))
    heard = await event_ids(wire, subscriber.name)
    assert len(heard) == len(set(heard)) == ALERTS
    assert log.of("alerts_not_confirmed") == log.of("session_lost") == []


async def test_the_last_subscriber_leaves_in_the_middle_of_a_turn(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    wires: Wires,
    connection: Connection,
    log: Log,
    proxy: AlertWire,
    subscriber: AbstractQueue,
) -> None:
    """Nothing is lost: the queue of alerts gets what it did not hear of."""
    async with running_worker(settings, pool, replace(wires.parts, limits=QUICK_RETRIES)):
        await until_serving(wire)
        await subscriber.bind(names.ALERTS_EXCHANGE, "#")
        alerts = await wire_with_one_alert(connection, proxy)
        heard = await event_ids(wire, subscriber.name)
        await subscriber.unbind(names.ALERTS_EXCHANGE, "#")
        proxy.way_to_broker.set()
        await until(lambda: is_empty(connection))
    left = await event_ids(wire, names.ALERTS_QUEUE)
    assert len(heard) == 1
    assert sorted([*heard, *left]) == alerts
    assert log.of("session_lost") == []


async def wire_with_one_alert(connection: Connection, proxy: AlertWire) -> list[str]:
    """Insert alerts, and wait until the first is confirmed and the next ones are held up. Returns all their events."""
    proxy.way_to_broker.clear()
    await insert_alerts(connection)
    rows = await connection.fetch("SELECT event_id::text FROM alerts ORDER BY event_id::text")
    await until(lambda: proxy.alerts[names.ALERTS_EXCHANGE] > 1)
    return [row["event_id"] for row in rows]
