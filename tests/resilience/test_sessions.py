"""Whatever breaks in a session ends it whole, is logged once, and the next session serves."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import aio_pika
import pytest
from aiormq import spec

from schema import names
from tests.chaos.proxy import CHUNK_BYTES, Proxy
from tests.commands import export_runs, worker_process
from tests.conftest import end_of, running_worker, worker_settings
from tests.resilience.conftest import Wires, opened, through
from tests.resilience.observing import RECOVERY_S, Log, until, until_serving, until_steady
from tests.wire import Wire, run_created
from worker.broker.declaration import declare
from worker.broker.deliveries import Delivery
from worker.broker.link import (
    CLOSE_TIMEOUT_S,
    CONNECTION_ERRORS,
    flush,
    open_link,
    start_consuming,
)
from worker.broker.messages import Reply, ack, reply, requeue
from worker.database.pool import Pool
from worker.limits import WorkerLimits
from worker.monitoring.health import Health
from worker.session import DEFAULT_PARTS, WorkerParts, run_sessions
from worker.settings import WorkerSettings

PURPOSES = ["consuming", "publishing"]
"""A connection for each makes a session."""

HEARTBEAT_S = 1
FREEZE_NOTICED_S = 3 * (HEARTBEAT_S + 1)
MARGIN_S = 20
"""With the default heartbeat it would take 33 seconds."""
SESSIONS = 12


def proxied(settings: WorkerSettings, proxy: Proxy) -> WorkerSettings:
    """Settings of a worker whose every connection to the broker goes through a proxy."""
    url = through(settings.amqp_url.get_secret_value(), proxy)
    return worker_settings(url, settings.database_url.get_secret_value())


@pytest.mark.parametrize("purpose", PURPOSES)
async def test_a_cut_connection(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    log: Log,
    wires: Wires,
    broker_proxy: Proxy,
    purpose: str,
) -> None:
    """Each connection alone."""
    wires.proxies[purpose] = broker_proxy
    async with running_worker(settings, pool, wires.parts):
        await until_steady(wire)
        async with broker_proxy.cut():
            await log.until("session_lost")
        await until_serving(wire)
    assert log.reasons() == [f"the connection for {purpose} closed"]


async def test_frozen_connections_are_noticed(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, wires: Wires, amqp_url: str
) -> None:
    """Three workers, and of each another connection freezes: no byte comes, and no end of it.

    The third loses only the connection that replies go out on.
    """
    impatient = settings.model_copy(update={"heartbeat_s": HEARTBEAT_S, "connect_timeout_s": 1})
    async with AsyncExitStack() as stack:
        frozen = []
        for started, purpose in enumerate([*PURPOSES, "answering"], start=1):
            proxy = await stack.enter_async_context(opened(amqp_url, Proxy))
            frozen.append(proxy)
            wires.proxies.clear()
            wires.proxies[purpose] = proxy
            await stack.enter_async_context(running_worker(impatient, pool, wires.parts))
            await log.until("session_started", started)
        wires.proxies.clear()
        for proxy in frozen:
            await stack.enter_async_context(proxy.frozen())
        await log.until("session_lost", len(PURPOSES), within_s=FREEZE_NOTICED_S + MARGIN_S)
        await log.until("connection_lost", within_s=FREEZE_NOTICED_S + MARGIN_S)
        await log.until("session_started", 2 * len(PURPOSES) + 1, within_s=RECOVERY_S)
        await until_serving(wire)
    assert sorted(log.reasons()) == sorted(f"the connection for {purpose} closed" for purpose in PURPOSES)


async def test_a_server_that_accepts_and_stays_silent(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, broker_proxy: Proxy
) -> None:
    impatient = proxied(settings, broker_proxy).model_copy(update={"connect_timeout_s": 0.3})
    stopping = asyncio.Event()
    async with broker_proxy.frozen():
        worker = asyncio.create_task(run_sessions(impatient, pool, DEFAULT_PARTS, stopping, Health()))
        await log.until("session_lost", times=2)
    await log.until("session_started", within_s=RECOVERY_S)
    await until_serving(wire)
    assert {line["error"] for line in log.of("session_lost")} == {"TimeoutError"}
    stopping.set()
    await end_of(worker, settings.shutdown_s)


class FreezesWhileDeclaring(Proxy):
    """Falls silent for good when the first queue is declared."""

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if names.UNROUTABLE_QUEUE.encode() in data:
                self._moving.clear()
            await self._moving.wait()
            writer.write(data)
            await writer.drain()


async def test_a_connection_frozen_while_declaring(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, wires: Wires
) -> None:
    """Nobody cancels the worker, whatever the libraries raise."""
    impatient = settings.model_copy(update={"heartbeat_s": HEARTBEAT_S})
    stopping = asyncio.Event()
    async with opened(settings.amqp_url.get_secret_value(), FreezesWhileDeclaring) as wires.proxies["consuming"]:
        worker = asyncio.create_task(run_sessions(impatient, pool, wires.parts, stopping, Health()))
        await until(lambda: worker.done() or log.of("session_lost"), within_s=FREEZE_NOTICED_S + MARGIN_S)
        wires.proxies.clear()
        await log.until("session_started", within_s=RECOVERY_S)
        await until_serving(wire)
        stopping.set()
        await end_of(worker, settings.shutdown_s)


class Brittle(Proxy):
    """Cuts every connection after the server has sent one piece, then after two, and so on."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.pieces_max = 1
        self._pieces = 0

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            self._pieces += 1
            if self._pieces >= self.pieces_max:
                self._pieces = 0
                self.pieces_max += 1
                for connection in self._connections:
                    connection.cancel()
                return
            await writer.drain()


async def test_a_connection_cut_at_any_step(settings: WorkerSettings, pool: Pool, wire: Wire, log: Log) -> None:
    """Connecting, declaring, starting to consume, serving: wherever it breaks, the worker begins again."""
    parts = WorkerParts(limits=WorkerLimits(retry_delay_first_s=0.001, retry_delay_max_s=0.001))
    stopping = asyncio.Event()
    async with opened(settings.amqp_url.get_secret_value(), Brittle) as brittle:
        worker = asyncio.create_task(run_sessions(proxied(settings, brittle), pool, parts, stopping, Health()))
        await until(lambda: worker.done() or len(log.of("session_started")) >= SESSIONS, within_s=2 * RECOVERY_S)
        assert not worker.done(), worker
        brittle.pieces_max = 1_000_000
        await until_serving(wire)
        stopping.set()
        await end_of(worker, settings.shutdown_s)
    errors = {line["error"] for line in log.of("session_lost")}
    others = {"AMQPConnectionError", "ConnectionError"}
    assert errors <= {"SessionLost", *(error.__name__ for error in CONNECTION_ERRORS), *others}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "queue", [names.rpc_queue("check-claims"), names.event_queue("run-created")], ids=["rpc", "event"]
)
async def test_a_queue_deleted_under_its_consumer(wire: Wire, log: Log, queue: str) -> None:
    await until_steady(wire)
    await wire.channel.queue_delete(queue)
    await log.until("session_lost")
    await until_serving(wire)
    reply = await wire.ask("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]})
    assert reply["ok"] is True
    assert log.reasons() == ["RabbitMQ cancelled a consumer"]


async def test_a_queue_of_other_making(settings: WorkerSettings, wire: Wire) -> None:
    """The worker says which, and stops: to try again would help nobody."""
    queue = names.rpc_queue("check-claims")
    await wire.channel.queue_delete(queue)
    await wire.channel.declare_queue(queue, durable=True, arguments={"x-max-length": 7})
    try:
        finished = await export_runs("worker", settings=settings)
    finally:
        await wire.channel.queue_delete(queue)
    assert finished.code == 1
    message = " ".join(line for line in finished.err.splitlines() if not line.startswith("{"))
    assert queue in message
    assert "x-" in message
    assert "session_lost" not in finished.err


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("missing", ["exchange", "queue"])
async def test_a_dead_letter_with_nowhere_to_go(wire: Wire, log: Log, missing: str) -> None:
    """The event is kept, and goes where it belongs once the next session has declared it."""
    await until_serving(wire)
    dead = names.dead_letter_queue("run-created")
    if missing == "exchange":
        await wire.channel.exchange_delete(names.DEAD_LETTER_EXCHANGE)
    else:
        await wire.channel.queue_delete(dead)
    await wire.publish("run-created", b"not JSON")
    await log.until("session_lost")
    await log.until("event_dead_lettered", within_s=RECOVERY_S)
    assert (await wire.take_from(dead)).body == b"not JSON"
    await until_serving(wire)
    assert await wire.count_in(dead) == 0
    assert len(log.reasons()) == 1


@pytest.mark.usefixtures("worker")
async def test_dead_letters_of_one_message_id(wire: Wire) -> None:
    """Of two on their way at once, one cannot be routed: it must not be taken for the one that was."""
    await until_serving(wire)
    await wire.channel.queue_delete(names.dead_letter_queue("run-finished"))
    for _ in range(20):
        await asyncio.gather(
            *(
                wire.publish(event_type, b"not JSON", message_id="the same")
                for event_type in ("run-created", "run-finished")
            )
        )
    for event_type in ("run-created", "run-finished"):
        for _ in range(20):
            assert (await wire.take_from(names.dead_letter_queue(event_type))).message_id == "the same"


@pytest.mark.parametrize("settle", [ack, requeue], ids=["ack", "requeue"])
async def test_settling_on_a_lost_connection_does_no_harm(settings: WorkerSettings, wire: Wire, settle: Any) -> None:
    """RabbitMQ redelivers the message, and nothing else happens."""
    queue = await wire.channel.declare_queue("reply.held", auto_delete=False)
    taken: asyncio.Queue[Delivery] = asyncio.Queue()
    async with open_link(settings, "a test", lambda reason: None) as link:
        await start_consuming(link, queue.name, 1, taken.put_nowait)
        await wire.channel.default_exchange.publish(aio_pika.Message(b"held"), queue.name)
        delivery = await asyncio.wait_for(taken.get(), RECOVERY_S)
    await settle(link, delivery)
    again = await wire.take_from(queue.name)
    assert (again.body, again.redelivered) == (b"held", True)
    await queue.delete()


STUCK = """
import asyncio
from contextlib import suppress
from dataclasses import replace
import structlog
from worker.limits import WorkerLimits
from worker.routes import ROUTES
from worker.session import WorkerParts

async def never_ends(connection, batch):
    structlog.get_logger().info("never_ends_begun")
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

created, *others = ROUTES.events
parts = WorkerParts(
    routes=replace(ROUTES, events=(replace(created, store=never_ends), *others)),
    limits=WorkerLimits(session_end_timeout_s=0.2),
)
"""


@pytest.mark.parametrize("how", ["its connections are cut", "a task of it fails"])
async def test_a_session_that_does_not_end(settings: WorkerSettings, wire: Wire, broker_proxy: Proxy, how: str) -> None:
    """Something in it that cannot be cancelled would keep the next session from starting for ever: the process ends."""
    async with worker_process(proxied(settings, broker_proxy), parts=STUCK) as worker, AsyncExitStack() as stack:
        await worker.until_logged("session_started")
        await wire.publish("run-created", run_created())
        await worker.until_logged("never_ends_begun")
        if how == "a task of it fails":
            await wire.channel.exchange_delete(names.DEAD_LETTER_EXCHANGE)
            await wire.publish("run-finished", b"not JSON")
        else:
            await stack.enter_async_context(broker_proxy.cut())
        stuck = await worker.until_logged("session_stuck")
        assert await worker.exit_code() == 1
    # Where it waits comes first, then who called whom.
    assert any(place.startswith("asyncio/locks.py:") and "events/store.py" in place for place in stuck["tasks"])
    await declare(wire.channel)


async def test_a_reply_does_not_come_back(
    settings: WorkerSettings, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ 3.10 returns a mandatory direct reply even when it has delivered it; aiormq logs each as an error."""
    queue = await wire.channel.declare_queue("reply.asked", auto_delete=False)
    requests: asyncio.Queue[Delivery] = asyncio.Queue()
    answers: asyncio.Queue[Delivery] = asyncio.Queue()
    async with (
        open_link(settings, "a client", lambda reason: None) as client,
        open_link(settings, "a server", lambda reason: None) as server,
    ):
        await client.underlay.basic_consume("amq.rabbitmq.reply-to", answers.put, no_ack=True)
        await start_consuming(server, queue.name, 1, requests.put_nowait)
        asking = spec.Basic.Properties(reply_to="amq.rabbitmq.reply-to", correlation_id="mine")
        await client.underlay.basic_publish(b"asked", routing_key=queue.name, properties=asking)
        request = await asyncio.wait_for(requests.get(), RECOVERY_S)
        await ack(server, request)
        await reply(server, [Reply(request, b"answered", None)])
        answer = await asyncio.wait_for(answers.get(), RECOVERY_S)
        await flush(server)  # what RabbitMQ returns arrives before its answer to this
    assert (answer.body, answer.header.properties.correlation_id) == (b"answered", "mine")
    assert [record.getMessage() for record in caplog.records if "returned" in record.getMessage()] == []
    await queue.delete()


async def test_closing_a_frozen_connection_is_bounded(settings: WorkerSettings, broker_proxy: Proxy) -> None:
    """With more to send than the wire takes."""
    async with asyncio.timeout(CLOSE_TIMEOUT_S + MARGIN_S), AsyncExitStack() as stack:
        opening = open_link(proxied(settings, broker_proxy), "a test", lambda reason: None)
        link = await opening.__aenter__()
        await stack.enter_async_context(broker_proxy.frozen())
        sending = asyncio.create_task(link.underlay.basic_publish(bytes(32 * 1024 * 1024), routing_key="nowhere"))
        await asyncio.wait({sending}, timeout=0.5)
        await opening.__aexit__(None, None, None)
    broker_proxy.close()
    await asyncio.wait_for(asyncio.wait({sending}), MARGIN_S)


@pytest.mark.usefixtures("worker")
async def test_a_reply_queue_that_is_gone(wire: Wire, log: Log) -> None:
    """Its owner hears nothing; everyone else is served on, in the same session."""
    await until_serving(wire)
    message = aio_pika.Message(b'{"orgId": "org-1", "claimIds": ["c-1"]}', reply_to="reply.gone", correlation_id="gone")
    exchange = await wire.channel.get_exchange(names.RPC_EXCHANGE, ensure=False)
    await exchange.publish(message, "check-claims")
    await until_serving(wire)
    created = run_created()
    await wire.publish("run-created", created)
    await wire.until_run(created["runId"])
    assert log.of("session_lost") == []


@pytest.mark.usefixtures("worker")
async def test_an_address_that_cannot_be_answered_is_logged(wire: Wire, log: Log) -> None:
    """Which one, why, and what to do about it; once, however often it is asked from."""
    await until_serving(wire)
    exchange = await wire.channel.get_exchange(names.RPC_EXCHANGE, ensure=False)
    for _ in range(5):
        message = aio_pika.Message(b"{}", reply_to="payments.in", correlation_id="mine")
        await exchange.publish(message, "check-claims")
    await until_serving(wire)
    [line] = log.of("request_without_usable_reply_to")
    assert (line["reply_to"], line["operation"], line["correlation_id"]) == ("payments.in", "check-claims", "mine")
    assert "EXPORT_RUNS_REPLY_QUEUE_PREFIXES: reply." in line["reason"]
