"""The command line: what it prints, and what its exit codes mean."""

import json
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from typer.testing import CliRunner

from tests.commands import export_runs
from tests.forked import forked_export_runs
from tests.wire import Wire, run_created, run_finished
from worker.cli import app
from worker.settings import WorkerSettings


def lines_of(*events: tuple[str, dict[str, object]]) -> bytes:
    return b"".join(json.dumps({"type": kind, **event}).encode() + b"\n" for kind, event in events)


@pytest.mark.usefixtures("worker")
async def test_publish_then_ask(settings: WorkerSettings, wire: Wire, tmp_path: Path) -> None:
    created = run_created(orgId="acme")
    finished = run_finished(orgId="acme", runId=created["runId"], claimIds=["taxi-17"])
    file = tmp_path / "events.jsonl"
    file.write_bytes(lines_of(("run-created", created), ("run-finished", finished)))
    for _ in range(2):
        published = await forked_export_runs("publish", str(file), settings=settings)
        assert (published.code, published.out) == (0, "2 published, 0 invalid\n")
    await wire.until_run(created["runId"], status="completed", triggeredBy="alice")

    history = await forked_export_runs("history", "acme", settings=settings)
    assert history.code == 0
    for shown in (created["runId"], "completed", "alice", "1 of 1 runs"):
        assert shown in history.out
    as_json = await forked_export_runs("history", "acme", "--json", settings=settings)
    assert json.loads(as_json.out) == await wire.result("get-export-history", orgId="acme")

    run = await forked_export_runs("run", created["runId"], settings=settings)
    assert (run.code, "taxi-17" in run.out) == (0, True)

    gone = await forked_export_runs("claims", "check", "acme", "taxi-17", "hotel-4", "--json", settings=settings)
    assert gone.code == 4
    assert [each["claimId"] for each in json.loads(gone.out)["exported"]] == ["taxi-17"]
    free = await forked_export_runs("claims", "check", "acme", "hotel-4", settings=settings)
    assert (free.code, "hotel-4" in free.out) == (0, True)

    found = await forked_export_runs("claims", "find", "taxi-17", "--org", "acme", settings=settings)
    assert (found.code, created["runId"] in found.out, "exported" in found.out) == (0, True, True)


@pytest.mark.usefixtures("worker")
async def test_publish_names_the_lines_that_are_wrong(settings: WorkerSettings, wire: Wire) -> None:
    good = run_created()
    file = (
        lines_of(("run-created", run_created(orgId="")))
        + b"\n"
        + b"not JSON\n"
        + lines_of(("run-deleted", good), ("run-created", good))
    )
    published = await export_runs("publish", "-", settings=settings, stdin=file)
    assert (published.code, published.out) == (1, "1 published, 3 invalid\n")
    assert [line.split(":")[0:2] for line in published.err.splitlines()] == [
        ["line 1", " orgId"],
        ["line 3", " body"],
        ["line 4", " type"],
    ]
    await wire.until_run(good["runId"])
    checked = await export_runs("publish", "-", "--dry-run", settings=settings, stdin=file)
    assert (checked.code, checked.out) == (1, "1 valid, 3 invalid\n")


@pytest.mark.usefixtures("worker")
async def test_refusals(settings: WorkerSettings) -> None:
    unknown = await forked_export_runs("run", str(uuid4()), settings=settings)
    assert (unknown.code, unknown.err) == (1, "RUN_NOT_FOUND: there is no such run\n")
    not_an_id = await forked_export_runs("run", "42", settings=settings)
    assert (not_an_id.code, not_an_id.err.startswith("runId: ")) == (2, True)
    cursor = await forked_export_runs("history", "acme", "--cursor", "nonsense", settings=settings)
    assert (cursor.code, "cursor: " in cursor.err) == (1, True)
    both = await forked_export_runs("history", "acme", "--cursor", "x", "--offset", "1", settings=settings)
    assert (both.code, both.err) == (2, "cursor: excludes offset\n")


async def test_migrate_says_what_it_did(settings: WorkerSettings) -> None:
    done = await forked_export_runs("migrate", settings=settings)
    assert (done.code, done.out) == (0, "nothing to do: the schema is up to date\n")
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    unmigrated = await forked_export_runs("worker", settings=settings)
    assert (unmigrated.code, "run `export-runs migrate` first" in unmigrated.err) == (1, True)
    done = await forked_export_runs("migrate", settings=settings)
    assert (done.code, done.out.splitlines()[0]) == (0, "applied 0001 export_runs")
    await connection.execute("UPDATE export_runs_migrations SET sha256 = 'edited'")
    await connection.close()
    refused = await forked_export_runs("migrate", settings=settings)
    assert (refused.code, "was edited after it was applied" in refused.err) == (1, True)


@pytest.mark.usefixtures("worker")
async def test_purge_says_which_claims_it_frees(settings: WorkerSettings, wire: Wire) -> None:
    finished = run_finished(claimIds=["taxi-17"])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    planned = await forked_export_runs("purge", finished["runId"], settings=settings)
    assert planned.code == 0
    assert "claim taxi-17 would count as unexported now" in planned.out
    disabled = await forked_export_runs("purge", finished["runId"], "--yes", settings=settings)
    assert (disabled.code, "EXPORT_RUNS_PURGE_ENABLED" in disabled.err) == (1, True)
    assert await wire.run(finished["runId"]) is not None
    allowed = {"EXPORT_RUNS_PURGE_ENABLED": "true"}
    purged = await forked_export_runs("purge", finished["runId"], "--yes", settings=settings, **allowed)
    assert purged.code == 0
    assert "claim taxi-17 counts as unexported now" in purged.out
    assert await wire.run(finished["runId"]) is None
    again = await forked_export_runs("purge", finished["runId"], "--yes", settings=settings, **allowed)
    assert (again.code, again.err) == (1, "there is no such run\n")


async def test_services_that_do_not_answer(settings: WorkerSettings) -> None:
    nowhere = {"EXPORT_RUNS_AMQP_URL": "amqp://guest:secret@127.0.0.1:1/"}
    unreachable = await forked_export_runs("history", "acme", settings=settings, **nowhere)
    assert (unreachable.code, "secret" in unreachable.err) == (3, False)
    nowhere = {"EXPORT_RUNS_DATABASE_URL": "postgresql://postgres:secret@127.0.0.1:1/x"}
    unreachable = await forked_export_runs("migrate", settings=settings, **nowhere)
    assert (unreachable.code, "secret" in unreachable.err) == (3, False)


async def test_no_worker_has_ever_run_here(settings: WorkerSettings, wire: Wire) -> None:
    """It is said at once, not waited out."""
    await wire.channel.queue_delete("export-runs.rpc.check-claims")
    asked = await forked_export_runs("claims", "check", "acme", "taxi-17", settings=settings)
    assert (asked.code, "Traceback" in asked.err) == (3, False)


async def test_the_environment_is_checked(settings: WorkerSettings) -> None:
    wrong = await forked_export_runs("worker", settings=settings, EXPORT_RUNS_HEARTBEAT_S="0")
    assert (wrong.code, wrong.err.startswith("EXPORT_RUNS_HEARTBEAT_S: ")) == (2, True)


@pytest.mark.parametrize(
    "command",
    [[], ["worker"], ["migrate"], ["purge"], ["history"], ["run"], ["claims", "check"], ["publish"]],
    ids=" ".join,
)
def test_help_teaches(command: list[str]) -> None:
    helped = CliRunner().invoke(app, [*command, "--help"])
    assert helped.exit_code == 0
    assert len(helped.output.splitlines()) > 5
