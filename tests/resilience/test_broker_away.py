"""The broker itself goes away, or runs short of memory. It is a private one."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from handlers.connection import Connection
from local.rabbitmq import LocalRabbitMQ
from schema import names
from tests.conftest import running_worker
from tests.resilience.observing import RECOVERY_S, Log, publish_all, until, until_serving
from tests.wire import Wire, run_created
from worker import dead_letters
from worker.database import Pool
from worker.settings import WorkerSettings

RABBITMQCTL: Final = "/usr/lib/rabbitmq/bin/rabbitmqctl"
RABBITMQCTL_TIMEOUT_S: Final = 30


@pytest.fixture
def amqp_url(broker_server: LocalRabbitMQ) -> str:
    """The private broker."""
    return broker_server.url


async def rabbitmqctl(server: LocalRabbitMQ, *arguments: str) -> str:
    """Run a command of the broker's in the broker's own environment."""
    environment = Path(f"/proc/{server.pid}/environ").read_text().rstrip("\0").split("\0")
    process = await asyncio.create_subprocess_exec(
        RABBITMQCTL,
        "-q",
        *arguments,
        env=dict(pair.split("=", 1) for pair in environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), RABBITMQCTL_TIMEOUT_S)
    assert process.returncode == 0
    return out.decode()


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
    """Whether the queue holds nothing but strangers; of these the broker may have taken the first dead letter."""
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
    monkeypatch: pytest.MonkeyPatch,
    alarm: str,
    high: str,
    normal: str,
) -> None:
    """Events are stored and acknowledged all the same; afterwards requests are answered, in the same session.

    A dead letter that nobody reads is not sent over and over.
    """
    monkeypatch.setattr(dead_letters, "PUBLISH_TIMEOUT_S", 0.5)
    runs = [run_created() for _ in range(200)]
    known = run_created()
    strangers = [{**known, "eventId": str(uuid4()), "orgId": "org-2"} for _ in range(2)]
    blocker = await asyncpg.connect(settings.database_url.get_secret_value())
    async with running_worker(settings, pool):
        await until_serving(wire)
        await wire.publish("run-created", known)
        await wire.until_run(known["runId"])
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE export_runs IN ACCESS EXCLUSIVE MODE")
            await publish_all(wire, "run-created", [*runs, *strangers])
            asking = asyncio.create_task(wire.ask("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]}))
            await rabbitmqctl(broker_server, alarm, high)
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
        found = [json.loads((await wire.take_from(dead)).body) for _ in strangers]
        await log.until("connection_unblocked", times=2)
        found += [json.loads((await wire.take_from(dead)).body) for _ in range(await wire.count_in(dead))]
        assert all(stranger in found for stranger in strangers)
        assert len(found) <= len(strangers) + 1, "only what it was not yet known to block was sent again"
    assert len(log.of("connection_blocked")) == len(log.of("connection_unblocked")) == 2
    await blocker.close()
    assert log.of("session_lost") == []
