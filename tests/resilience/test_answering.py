"""What happens to the connection that replies go out on is its own affair."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest

from local.rabbitmq import LocalRabbitMQ
from schema import names
from tests.chaos.proxy import Proxy
from tests.commands import worker_process
from tests.conftest import running_worker
from tests.reply_addresses import NODE_HASHES, address
from tests.resilience.conftest import Wires
from tests.resilience.locks import locked, waiting
from tests.resilience.observing import (
    RECOVERY_S,
    Log,
    ask_in_time,
    publish_all,
    rabbitmqctl,
    until,
    until_serving,
    until_steady,
)
from tests.wire import Json, Wire, run_created
from worker.database.pool import Pool
from worker.limits import WorkerLimits
from worker.session import WorkerParts
from worker.settings import WorkerSettings

CHECK = {"orgId": "org-1", "claimIds": ["c-1"]}
FORGED = 200


@pytest.mark.parametrize("how", ["its connection is cut", "its channel is closed"])
async def test_nobody_else_is_disturbed(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    log: Log,
    wires: Wires,
    broker_proxy: Proxy,
    deliveries: Counter[bool],
    how: str,
) -> None:
    """No event that the worker holds is redelivered; a request that it works on is answered on the next connection."""
    wires.proxies["answering"] = broker_proxy
    database_url = settings.database_url.get_secret_value()
    runs = [run_created(orgId="org-many") for _ in range(500)]
    async with running_worker(settings, pool, wires.parts):
        await until_serving(wire)
        async with locked(database_url, "export_runs"):
            await publish_all(wire, "run-created", runs)
            asking = asyncio.create_task(wire.ask("get-export-history", {"orgId": "org-1"}))
            await until(lambda: waiting(database_url, 2))
            if how == "its connection is cut":
                async with broker_proxy.cut():
                    await log.until("connection_lost")
            else:
                await wires.links["answering"].underlay.basic_ack(999_999)  # there is no such delivery
                await log.until("connection_lost")
        assert (await asking)["ok"] is True
        await until_serving(wire)
        assert (await ask_in_time(wire))["ok"] is True
        await until(lambda: nothing_waits(wire))
    closed = "connection" if how == "its connection is cut" else "channel"
    assert {
        (line["purpose"], line["reason"].partition(":")[0]) for line in log.of("connection_lost") if line["reason"]
    } == {("answering", f"the {closed} for answering closed")}
    assert log.of("session_lost") == []
    assert deliveries[True] == 0


async def nothing_waits(wire: Wire) -> bool:
    """Whether every event is stored."""
    page = await wire.result("get-export-history", orgId="org-many", limit=1)
    return bool(page["total"] == 500)


async def test_a_connection_that_cannot_be_opened_for_long_ends_the_session(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, wires: Wires, broker_proxy: Proxy
) -> None:
    """This worker's requests are then answered by others."""
    wires.proxies["answering"] = broker_proxy
    parts = WorkerParts(open_link=wires.open_link, limits=WorkerLimits(answering_away_max_s=0.5))
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        async with broker_proxy.cut():
            await log.until("session_lost")
        await until_serving(wire)
    assert set(log.reasons()) == {"no connection for answering could be opened"}


async def test_what_waits_for_that_connection_ends_with_the_session(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, wires: Wires, broker_proxy: Proxy
) -> None:
    """RabbitMQ redelivers the request in the next session: nobody else is to answer it."""
    wires.proxies["answering"] = broker_proxy

    def waiting() -> set[asyncio.Task[Any]]:
        return {task for task in asyncio.all_tasks() if "RequestServer._reply" in str(task.get_coro())}

    async with running_worker(settings, pool, wires.parts):
        await until_steady(wire)
        async with broker_proxy.cut():
            await log.until("connection_lost")
            invalid = asyncio.create_task(wire.ask("check-claims", {}))
            await until(waiting)
            before = waiting()
            await wires.links["consuming"].underlay.basic_ack(999_999)  # there is no such delivery
            await log.until("session_lost")
            await until(lambda: waiting() - before)
            assert not before & asyncio.all_tasks()
        assert (await invalid)["error"]["code"] == "INVALID_REQUEST"


@pytest.mark.usefixtures("worker")
async def test_forged_addresses_disturb_nobody(wire: Wire, log: Log) -> None:
    """However many: RabbitMQ 3.10 would close the connection that answers them."""
    await until_serving(wire)
    exchange = await wire.channel.get_exchange(names.RPC_EXCHANGE, ensure=False)
    for number in range(FORGED):
        forged = (
            address(node=b"reply@%d" % (number * 1_000)),
            address(node=b"reply@%d" % (NODE_HASHES + number)),
            address(node=b"rabbit@host-%d" % number),
        )
        for reply_to in forged:
            message = aio_pika.Message(json.dumps(CHECK).encode(), reply_to=reply_to, correlation_id="forged")
            await exchange.publish(message, "check-claims")
        if number % 10 == 0:
            assert (await ask_in_time(wire))["ok"] is True
    assert log.of("connection_lost") == log.of("session_lost") == []


@pytest.fixture
async def blocked_broker(broker_server: LocalRabbitMQ) -> AsyncIterator[LocalRabbitMQ]:
    """The private broker; whatever a test sets, it has memory enough afterwards."""
    yield broker_server
    await rabbitmqctl(broker_server, "set_vm_memory_high_watermark", "0.4")


class TestOfAPrivateBroker:
    """Its connections are closed, and its memory runs short."""

    @pytest.fixture
    def amqp_url(self, broker_server: LocalRabbitMQ) -> str:
        """The private broker."""
        return broker_server.url

    async def test_an_operator_closes_it(
        self,
        settings: WorkerSettings,
        pool: Pool,
        wire: Wire,
        log: Log,
        wires: Wires,
        broker_server: LocalRabbitMQ,
        deliveries: Counter[bool],
    ) -> None:
        async with running_worker(settings, pool, wires.parts):
            await until_steady(wire)
            before = wires.links["answering"]
            listed = await rabbitmqctl(broker_server, "list_connections", "pid", "client_properties")
            [pid] = [line.split("\t")[0] for line in listed.splitlines() if "export-runs answering" in line]
            await rabbitmqctl(broker_server, "close_connection", pid, "a test")
            await log.until("connection_lost")
            await until_serving(wire)
            assert wires.links["answering"] is not before
        assert log.of("session_lost") == []
        assert deliveries[True] == 0

    async def test_a_worker_that_stops_gives_back_what_it_cannot_answer(
        self, settings: WorkerSettings, wire: Wire, blocked_broker: LocalRabbitMQ
    ) -> None:
        """The broker is short of memory: it reads no reply. The next worker answers, once there is memory."""
        database_url = settings.database_url.get_secret_value()
        replies = await wire.channel.declare_queue("reply.held", auto_delete=False)
        operations = ("check-claims", "find-runs-by-claim-id")
        async with worker_process(settings, EXPORT_RUNS_LOCK_TIMEOUT_S="60") as worker:
            await until_serving(wire)
            async with locked(database_url, "export_run_claims"):
                for operation in operations:
                    for number in range(3):
                        await ask_into(wire, replies.name, operation, f"{operation} {number}")
                await until(lambda: waiting(database_url, len(operations)))
                async with locked(database_url, "export_runs"):
                    await ask_into(wire, replies.name, "get-export-history", "history")
                    await until(lambda: waiting(database_url, len(operations) + 1))
                    await rabbitmqctl(blocked_broker, "set_vm_memory_high_watermark", "0.000001")
                while (await worker.until_logged("connection_blocked"))["purpose"] != "answering":
                    pass
            worker.send(signal.SIGTERM)
            given_back = 0
            while given_back < 3 * len(operations):
                given_back += int((await worker.until_logged("requests_given_back"))["requests"])
            assert await worker.exit_code() == 0
        await rabbitmqctl(blocked_broker, "set_vm_memory_high_watermark", "0.4")
        async with worker_process(settings):
            asked = {f"{operation} {number}" for operation in operations for number in range(3)}
            answers: set[str | None] = set()
            async with asyncio.timeout(RECOVERY_S):
                while not asked <= answers:
                    answers.add((await wire.take_from(replies.name)).correlation_id)
        await replies.delete()


async def ask_into(wire: Wire, reply_to: str, operation: str, correlation_id: str) -> None:
    """Ask, and have the answer put into a queue."""
    bodies: dict[str, Json] = {
        "check-claims": CHECK,
        "find-runs-by-claim-id": {"claimId": "c-1"},
        "get-export-history": {"orgId": "org-1"},
    }
    exchange = await wire.channel.get_exchange(names.RPC_EXCHANGE, ensure=False)
    fields: dict[str, Any] = {"reply_to": reply_to, "correlation_id": correlation_id}
    await exchange.publish(aio_pika.Message(json.dumps(bodies[operation]).encode(), **fields), operation)
