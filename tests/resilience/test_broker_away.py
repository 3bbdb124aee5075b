"""The broker itself goes away, or runs short of memory. It is a private one."""

import asyncio
import json
from uuid import uuid4

import asyncpg
import pytest

from local.rabbitmq import LocalRabbitMQ
from schema import names
from sql.connection import Connection
from tests.conftest import running_worker
from tests.resilience.observing import RECOVERY_S, Log, publish_all, rabbitmqctl, until, until_serving
from tests.wire import Json, Wire, run_created
from worker.database.pool import Pool
from worker.limits import WorkerLimits
from worker.session import WorkerParts
from worker.settings import WorkerSettings

CHECK = {"orgId": "org-1", "claimIds": ["c-1"]}


@pytest.fixture
def amqp_url(broker_server: LocalRabbitMQ) -> str:
    """The private broker."""
    return broker_server.url


@pytest.mark.parametrize("how", ["restarted", "killed"])
async def test_the_broker_comes_back(
    settings: WorkerSettings,
    pool: Pool,
    connection: Connection,
    log: Log,
    broker_server: LocalRabbitMQ,
    how: str,
) -> None:
    """With confirmed events in its queues; each of them is stored, once."""
    runs = [run_created() for _ in range(200)]
    async with running_worker(settings, pool):
        async with Wire.connect(broker_server.url) as wire:
            await until_serving(wire)
            await publish_all(wire, "run-created", runs)
            await asyncio.to_thread(broker_server.kill if how == "killed" else broker_server.stop)
        await log.until("session_lost")
        await asyncio.to_thread(broker_server.start)
        await log.until("session_started", times=2, within_s=RECOVERY_S)
        async with Wire.connect(broker_server.url) as wire:
            await until_serving(wire)
            await until(lambda: is_empty(wire, names.event_queue("run-created")))
        ids = [run["eventId"] for run in runs]
        await until(lambda: all_logged(connection, ids))
    assert len(log.reasons()) == 1


async def is_empty(wire: Wire, queue: str) -> bool:
    """Whether nothing stands ready in a queue."""
    return await wire.count_in(queue) == 0


async def all_logged(connection: Connection, event_ids: list[str]) -> bool:
    """Whether each of these events is stored."""
    found = await connection.fetchval(
        "SELECT count(*) FROM export_run_events WHERE event_id = ANY($1::uuid[])", event_ids
    )
    return bool(found == len(event_ids))


async def all_acknowledged(server: LocalRabbitMQ, strangers: int) -> bool:
    """Whether the queue holds only what has to be dead-lettered. RabbitMQ may have taken the first of it."""
    listed = await rabbitmqctl(server, "list_queues", "name", "messages")  # some seconds old
    left = dict(line.split() for line in listed.splitlines())[names.event_queue("run-created")]
    return 0 < int(left) <= strangers


@pytest.mark.parametrize(
    ("alarm", "high", "normal"),
    [("set_vm_memory_high_watermark", "0.000001", "0.4"), ("set_disk_free_limit", "1000000000000000", "50000000")],
    ids=["memory", "disk"],
)
async def test_an_alarm(
    settings: WorkerSettings,
    pool: Pool,
    connection: Connection,
    wire: Wire,
    log: Log,
    broker_server: LocalRabbitMQ,
    alarm: str,
    high: str,
    normal: str,
) -> None:
    """Events are stored and acknowledged all the same; afterwards requests are answered, in the same session.

    A dead letter that nobody reads is not sent over and over.
    """
    impatient = WorkerParts(limits=WorkerLimits(dead_letter_timeout_s=2))
    settings = settings.model_copy(update={"request_deadline_s": 2 * RECOVERY_S})
    runs = [run_created() for _ in range(200)]
    known = run_created()
    strangers = [{**known, "eventId": str(uuid4()), "orgId": "org-2"} for _ in range(2)]
    blocker = await asyncpg.connect(settings.database_url.get_secret_value())
    async with running_worker(settings, pool, impatient):
        await until_serving(wire)
        await wire.publish("run-created", known)
        await wire.until_run(known["runId"])
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE export_runs IN ACCESS EXCLUSIVE MODE")
            await publish_all(wire, "run-created", [*runs, *strangers])
            asking = asyncio.create_task(wire.ask("check-claims", CHECK, wait_s=2 * RECOVERY_S))
            await rabbitmqctl(broker_server, alarm, high)
            await asyncio.sleep(1)  # it returns before every connection knows; what is sent until then blocks none
        try:
            await until(lambda: all_logged(connection, [run["eventId"] for run in runs]))
            await log.until("connection_blocked", times=2)
            await log.until("dead_letter_not_confirmed")
            await until(lambda: all_acknowledged(broker_server, len(strangers)))
        finally:
            await rabbitmqctl(broker_server, alarm, normal)
        await until_serving(wire)
        assert (await asking)["ok"] is True
        dead = names.dead_letter_queue("run-created")
        found: list[Json] = []
        while not all(stranger in found for stranger in strangers):
            found.append(json.loads((await wire.take_from(dead)).body))
        await log.until("connection_unblocked", times=2)
        found += [json.loads((await wire.take_from(dead)).body) for _ in range(await wire.count_in(dead))]
        assert len(found) <= len(strangers) + 1, (
            "only the message that was sent before the connection was known to be blocked may arrive twice"
        )
    assert len(log.of("connection_blocked")) == len(log.of("connection_unblocked")) == 2
    await blocker.close()
    assert log.of("session_lost") == []
