"""A worker has a process for events, one for requests, and a supervisor. What happens to one harms no other."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import sql
from local.processes import descendants
from sql.connection import Connection
from tests.commands import COMMAND, WorkerProcess, environment, worker_process
from tests.conftest import running_worker
from tests.wire import POLL_S, WAIT_S, Wire, run_created
from worker.broker.declaration import declare
from worker.broker.link import Link, open_link
from worker.database.pool import Pool
from worker.routes import ROUTES, Part
from worker.session import WorkerParts
from worker.settings import BrokerSettings, WorkerSettings

CHECK = {"orgId": "org-1", "claimIds": ["c-1"]}
EVENTS_QUEUE = "export-runs.run-created"
CHECKS_QUEUE = "export-runs.rpc.check-claims"

COUNTS_FROZEN_OBJECTS = """
import atexit, gc, json, sys
from worker.session import DEFAULT_PARTS as parts

def say():
    counts = {"frozen": gc.get_freeze_count(), "others": len(gc.get_objects())}
    print(json.dumps({"event": "garbage_searched", **counts}), file=sys.stderr, flush=True)

atexit.register(say)
"""

BLOCKED_EVENTS = """
import sys, time
from dataclasses import replace
import worker.events.consumer
from cli.main import main

async def stand_still(self, batch):
    print('{"event": "standing_still"}', file=sys.stderr, flush=True)
    time.sleep(3600)

worker.events.consumer.EventConsumer._process = stand_still
main()
"""


async def until_gone(*pids: int) -> None:
    """Wait until none of these processes runs. One that its parent has not waited for yet counts as gone."""
    async with asyncio.timeout(WAIT_S):
        while any(is_alive(pid) for pid in pids):
            await asyncio.sleep(POLL_S)


def is_alive(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


async def count_consumers(wire: Wire, queue: str) -> int:
    declared = await wire.channel.declare_queue(queue, passive=True)
    return declared.declaration_result.consumer_count or 0


async def publish_one(wire: Wire) -> str:
    """Publish an event. Returns the id of its run."""
    run = run_created()
    await wire.publish("run-created", run)
    return str(run["runId"])


async def test_every_part_has_a_process_and_says_so_in_its_log(settings: WorkerSettings, wire: Wire) -> None:
    async with worker_process(settings) as worker:
        pids = await worker.until_parts_started()
        assert set(pids) == set(Part)
        assert set(pids.values()) == set(descendants(worker.pid))
        run_id = await publish_one(wire)
        assert (await worker.until_logged("events_stored"))["part"] == "events"
        assert await wire.until_run(run_id)
        worker.send(signal.SIGTERM)
        lines = [json.loads(line) for line in await worker.rest() if line]
        assert await worker.exit_code() == 0
    assert {line["part"] for line in lines if line["event"] == "worker_stopped"} == {*Part, "supervisor"}
    assert not any(is_alive(pid) for pid in pids.values())


@pytest.mark.parametrize("killed", Part)
async def test_a_part_that_dies_is_started_again_and_the_other_goes_on(
    settings: WorkerSettings, wire: Wire, killed: Part
) -> None:
    other = next(part for part in Part if part != killed)
    async with worker_process(settings) as worker:
        pids = await worker.until_parts_started()
        os.kill(pids[killed], signal.SIGKILL)
        ended = await worker.until_logged("part_ended")
        assert (ended["process"], ended["exit_code"], ended["part"]) == (killed, -signal.SIGKILL, "supervisor")
        assert 0 < ended["pause_s"] <= 0.5
        started = await worker.next_logged("part_started", "session_started")
        assert (started["event"], started["process"]) == ("part_started", killed)
        assert (await worker.until_logged("session_started"))["part"] == killed
        assert is_alive(pids[other])
        assert await wire.until_run(await publish_one(wire))
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0


async def test_the_pause_before_a_part_is_started_again_grows_each_time(settings: WorkerSettings) -> None:
    async with worker_process(settings) as worker:
        pids = await worker.until_parts_started()
        pauses_s = []
        for _ in range(3):
            os.kill(pids["requests"], signal.SIGKILL)
            pauses_s.append((await worker.until_logged("part_ended"))["pause_s"])
            pids["requests"] = (await worker.until_logged("part_started"))["pid"]
        assert pauses_s[0] <= 0.5 < pauses_s[2] <= 2


async def test_an_event_that_blocks_its_process_delays_no_request(settings: WorkerSettings, wire: Wire) -> None:
    command = [sys.executable, "-c", BLOCKED_EVENTS, "worker"]
    variables = environment(settings, EXPORT_RUNS_SHUTDOWN_S="1")
    process = await asyncio.create_subprocess_exec(*command, env=variables, stderr=asyncio.subprocess.PIPE)
    worker = WorkerProcess(process)
    try:
        await worker.until_parts_started()
        await publish_one(wire)
        await worker.until_logged("standing_still")
        for _ in range(10):
            assert (await wire.ask("check-claims", CHECK))["ok"] is True
        worker.send(signal.SIGTERM)
        assert (await worker.until_logged("part_stuck"))["process"] == "events"
        assert await worker.exit_code() == 1
    finally:
        await worker.end()
    await wire.take_from(EVENTS_QUEUE)


async def test_the_parts_end_when_their_supervisor_is_killed(settings: WorkerSettings, wire: Wire) -> None:
    async with worker_process(settings) as worker:
        pids = await worker.until_parts_started()
        run_id = await publish_one(wire)
        assert await wire.until_run(run_id)
        worker.send(signal.SIGKILL)
        await until_gone(*pids.values())
        stopped = [json.loads(line) for line in await worker.rest() if "worker_stopped" in line]
    assert {line["part"] for line in stopped} == set(Part)
    assert await count_consumers(wire, EVENTS_QUEUE) == await count_consumers(wire, CHECKS_QUEUE) == 0


async def test_a_signal_to_the_process_group_stops_each_process_once(settings: WorkerSettings) -> None:
    """A terminal sends it to the whole group when somebody types Ctrl-C."""
    process = await asyncio.create_subprocess_exec(
        COMMAND, "worker", env=environment(settings), stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    worker = WorkerProcess(process)
    try:
        await worker.until_parts_started()
        os.killpg(worker.pid, signal.SIGINT)
        stopped = [json.loads(line)["part"] for line in await worker.rest() if "worker_stopped" in line]
        assert await worker.exit_code() == 0
    finally:
        await worker.end()
    assert sorted(stopped) == ["events", "requests", "supervisor"]


async def test_a_signal_to_every_process_stops_each_once(settings: WorkerSettings) -> None:
    """A service manager may stop a service so. The parts may have ended before the supervisor gets its signal."""
    async with worker_process(settings) as worker:
        pids = await worker.until_parts_started()
        for pid in (*pids.values(), worker.pid):
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, 0)
        assert await worker.exit_code() == 0
        stopped = [json.loads(line)["part"] for line in await worker.rest() if "worker_stopped" in line]
    assert sorted(stopped) == ["events", "requests", "supervisor"]


async def test_a_second_signal_kills_every_process(settings: WorkerSettings, wire: Wire) -> None:
    command = [sys.executable, "-c", BLOCKED_EVENTS, "worker"]
    process = await asyncio.create_subprocess_exec(*command, env=environment(settings), stderr=asyncio.subprocess.PIPE)
    worker = WorkerProcess(process)
    try:
        pids = await worker.until_parts_started()
        await publish_one(wire)
        await worker.until_logged("standing_still")
        worker.send(signal.SIGTERM)
        await worker.until_logged("worker_stopping")
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == -signal.SIGTERM
        await until_gone(*pids.values())
    finally:
        await worker.end()
    await wire.take_from(EVENTS_QUEUE)


async def until_consumed(wire: Wire, queue: str) -> None:
    """Wait until a queue has a consumer. After the first event the worker replaces it by one with a larger prefetch."""
    async with asyncio.timeout(WAIT_S):
        while not await count_consumers(wire, queue):
            await asyncio.sleep(POLL_S)


async def test_a_worker_for_events_only_consumes_no_requests(settings: WorkerSettings, wire: Wire) -> None:
    await declare(wire.channel)  # what stores events declares no request queue
    async with worker_process(settings, "--only", "events") as worker:
        assert (await worker.until_logged("session_started"))["part"] == "events"
        assert descendants(worker.pid) == []
        await publish_one(wire)
        await worker.until_logged("events_stored")
        await until_consumed(wire, EVENTS_QUEUE)
        assert await count_consumers(wire, CHECKS_QUEUE) == 0
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0


@pytest.mark.parametrize(
    ("part", "purposes"), [(Part.EVENTS, ["consuming", "publishing"]), (Part.REQUESTS, ["answering", "consuming"])]
)
async def test_a_part_opens_no_connection_that_it_does_not_use(
    settings: WorkerSettings, pool: Pool, part: Part, purposes: list[str]
) -> None:
    purposes_opened: list[str] = []

    def note_and_open(
        settings: BrokerSettings, purpose: str, on_loss: Callable[[str], None]
    ) -> AbstractAsyncContextManager[Link]:
        purposes_opened.append(purpose)
        return open_link(settings, purpose, on_loss)

    parts = WorkerParts(routes=ROUTES.only(part), open_link=note_and_open)
    async with running_worker(settings, pool, parts), asyncio.timeout(WAIT_S):
        while len(purposes_opened) < len(purposes):
            await asyncio.sleep(POLL_S)
    assert sorted(purposes_opened) == purposes


async def test_a_worker_for_requests_only_consumes_no_events(settings: WorkerSettings, wire: Wire) -> None:
    await declare(wire.channel)  # what answers requests declares no event queue
    async with worker_process(settings, "--only", "requests") as worker:
        assert (await worker.until_logged("session_started"))["part"] == "requests"
        await publish_one(wire)
        assert (await wire.ask("check-claims", CHECK))["ok"] is True
        assert (await count_consumers(wire, EVENTS_QUEUE), await count_consumers(wire, CHECKS_QUEUE)) == (0, 1)
        assert await wire.count_in(EVENTS_QUEUE) == 1
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 0
    await wire.take_from(EVENTS_QUEUE)


async def test_a_worker_says_what_starts_and_what_it_is_connected_to(
    settings: WorkerSettings, connection: Connection
) -> None:
    async with worker_process(settings, EXPORT_RUNS_STALE_RUN_S="77") as worker:
        started = await worker.until_logged("worker_started")
        session = await worker.until_logged("session_started")
    assert started["version"] == metadata.version("export-run-repository")
    assert started["schema_version"] == len(sql.migrations())
    assert (started["settings"]["stale_run_s"], started["settings"]["shutdown_s"]) == (77, settings.shutdown_s)
    for name in ("amqp_url", "database_url"):
        url = urlsplit(getattr(settings, name).get_secret_value())
        assert started["settings"][name] == f"{url.hostname}:{url.port}"
    assert re.fullmatch(r"RabbitMQ \d+\.\d+\.\d+", session["broker"])
    version = connection.get_server_version()
    assert session["database"] == f"PostgreSQL {version.major}.{version.minor}"


async def test_the_search_for_garbage_leaves_out_what_was_imported(settings: WorkerSettings, wire: Wire) -> None:
    """That is most of a worker's objects. A search that looked at them all would hold up requests."""
    async with worker_process(settings, parts=COUNTS_FROZEN_OBJECTS) as worker:
        await worker.until_logged("session_started")
        assert await wire.until_run(await publish_one(wire))
        worker.send(signal.SIGTERM)
        objects = await worker.until_logged("garbage_searched")
        assert await worker.exit_code() == 0
    assert objects["frozen"] > objects["others"]
