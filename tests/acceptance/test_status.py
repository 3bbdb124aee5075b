"""`export-runs status` shows what there is, and what cannot be asked hides nothing else."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import asyncpg
import pytest

from local.processes import free_ports
from sql.connection import Connection
from tests.commands import COMMAND, COMMAND_TIMEOUT_S, environment, export_runs, worker_process
from tests.storing import UNPUBLISHED_ALERT
from tests.wire import POLL_S, WAIT_S, Wire, run_created, run_finished
from worker.broker.topology import TOPOLOGY
from worker.settings import WorkerSettings

NOBODY = "127.0.0.1:1"


def queue(status: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each for each in status["broker"]["queues"] if each["name"] == name]
    return dict(found)


@pytest.mark.usefixtures("worker")
async def test_status_shows_the_services_and_what_waits_in_them(
    settings: WorkerSettings, wire: Wire, connection: Connection
) -> None:
    for _ in range(2):
        event = run_finished(claimIds=["c-1"])
        await wire.publish("run-finished", event)
        await wire.until_run(event["runId"])
    await wire.take_from("export-runs.alerts")
    async with asyncio.timeout(WAIT_S):
        while await connection.fetchval("SELECT count(*) FROM alerts"):
            await asyncio.sleep(POLL_S)
    await wire.publish("run-created", {}, exchange="export-runs.dead-letter")
    await connection.execute(UNPUBLISHED_ALERT)
    other = await asyncpg.connect(settings.database_url.get_secret_value())
    async with other.transaction():
        oldest = await other.fetchval("SELECT transaction_timestamp()")
        shown = await export_runs("status", "--json", settings=settings)
        table = await export_runs("status", settings=settings, variables={"COLUMNS": "80"})
    await other.close()
    status = json.loads(shown.out)
    assert (shown.code, shown.err) == (0, "")
    assert [each["name"] for each in status["broker"]["queues"]] == [each.name for each in TOPOLOGY.queues]
    assert queue(status, "export-runs.run-created.dead")["messages"] == 1
    assert queue(status, "export-runs.run-created")["consumers"] == 1
    assert status["broker"]["deadLetters"] == 1
    database = status["database"]
    assert (database["unpublishedAlerts"], database["unresolvedDoubleExports"], database["staleRuns"]) == (1, 1, 0)
    assert database["sizeBytes"] > 1_000_000
    assert database["oldestTransactionAt"] <= oldest.isoformat()
    assert status["worker"] == {"error": "unknown: EXPORT_RUNS_HTTP_PORT is not set"}
    assert table.code == 0
    assert "neither the rates" in table.out
    lines = [line for line in table.out.splitlines() if "neither the rates" not in line]
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    place = rows.index(["export-runs.run-created.dead", "1", "0"])
    assert rows[place + 1] == ["export-runs.run-finished.dead", "0", "0"]  # with no line between them


@pytest.mark.parametrize(
    ("variable", "url", "part", "other"),
    [
        ("EXPORT_RUNS_AMQP_URL", f"amqp://u:p@{NOBODY}/", "broker", "database"),
        ("EXPORT_RUNS_DATABASE_URL", f"postgresql://u:p@{NOBODY}/d", "database", "broker"),
    ],
)
async def test_a_service_that_is_away_hides_no_other(
    settings: WorkerSettings, variable: str, url: str, part: str, other: str
) -> None:
    shown = await export_runs("status", "--json", settings=settings, variables={variable: url})
    status = json.loads(shown.out)
    assert shown.code == 3
    assert status[part].keys() == {"error"}
    assert status[other]["product"]
    assert "p@" not in shown.out


@asynccontextmanager
async def watched_status(settings: WorkerSettings, **variables: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Yields a function that waits for the next look. At the end the command is interrupted."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "status",
        "--watch",
        "--json",
        env=environment(settings, **variables),
        stdout=asyncio.subprocess.PIPE,
        # As a terminal starts it. What a shell starts in the background ignores this signal, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    lines = process.stdout

    async def next_look() -> Any:
        return json.loads(await lines.readline())

    try:
        yield next_look
    finally:
        process.send_signal(signal.SIGINT)
        code = await process.wait()
    assert code == 0


@pytest.mark.usefixtures("worker")
async def test_watching_shows_how_fast_a_queue_grows_until_it_is_interrupted(
    settings: WorkerSettings, wire: Wire
) -> None:
    async with watched_status(settings) as next_look, asyncio.timeout(COMMAND_TIMEOUT_S):
        before = queue(await next_look(), "export-runs.unroutable")
        assert before["changePerSecond"] is None
        await wire.publish("no-such-type", {})
        while True:
            grown = queue(await next_look(), "export-runs.unroutable")
            if grown["changePerSecond"]:
                break
        assert grown["changePerSecond"] > 0


async def test_the_worker_here_says_its_version_and_how_many_events_it_stores(
    settings: WorkerSettings, wire: Wire
) -> None:
    [port] = free_ports(1)
    variables = {"EXPORT_RUNS_HTTP_PORT": str(port)}
    async with (
        worker_process(settings, **variables) as worker,
        watched_status(settings, **variables) as looks,
    ):
        pids = await worker.until_parts_started()
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            while not (seen := (await looks())["worker"]).get("eventsStoredPerSecond"):
                await wire.publish("run-created", run_created())
        assert (seen["ok"], seen["obstacles"]) == (True, {})
        assert seen["eventsStored"] >= 1
        assert seen["version"] == metadata.version("export-run-repository")
        table = await export_runs("status", settings=settings, variables=variables)
        assert f"can work, version {seen['version']}" in table.out
        assert "events stored" in table.out
        os.kill(pids["events"], signal.SIGSTOP)  # nobody knows how many it has stored
        hurt = json.loads((await export_runs("status", "--json", settings=settings, variables=variables)).out)["worker"]
        assert (hurt["ok"], hurt["version"], hurt["eventsStored"]) == (False, seen["version"], None)
