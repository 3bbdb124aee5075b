"""`export-runs status` shows what there is, and what cannot be asked hides nothing else."""

import asyncio
import json
import signal
from typing import Any

import asyncpg
import pytest

from sql.connection import Connection
from tests.commands import COMMAND, COMMAND_TIMEOUT_S, environment, export_runs
from tests.storing import UNPUBLISHED_ALERT
from tests.wire import POLL_S, WAIT_S, Wire, run_finished
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


@pytest.mark.usefixtures("worker")
async def test_watching_shows_how_fast_a_queue_grows_until_it_is_interrupted(
    settings: WorkerSettings, wire: Wire
) -> None:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "status",
        "--watch",
        "--json",
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        # As a terminal starts it. What a shell starts in the background ignores this signal, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    async with asyncio.timeout(COMMAND_TIMEOUT_S):
        first = json.loads(await process.stdout.readline())
        before = queue(first, "export-runs.unroutable")
        assert before["changePerSecond"] is None
        await wire.publish("no-such-type", {})
        while True:
            grown = queue(json.loads(await process.stdout.readline()), "export-runs.unroutable")
            if grown["changePerSecond"]:
                break
        assert grown["changePerSecond"] > 0
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
