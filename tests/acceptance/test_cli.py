"""The command line: its output and its exit codes."""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import typer
from typer.testing import CliRunner

from cli.main import app
from tests.commands import export_runs
from tests.forked import forked_export_runs
from tests.wire import Wire, run_created, run_finished
from worker.settings import WorkerSettings


def lines_of(*events: tuple[str, dict[str, object]]) -> bytes:
    return b"".join(json.dumps({"type": kind, **event}).encode() + b"\n" for kind, event in events)


@pytest.mark.usefixtures("worker")
async def test_published_events_are_found_by_every_command(
    settings: WorkerSettings, wire: Wire, tmp_path: Path
) -> None:
    created = run_created(orgId="acme", periodStart="2026-01-01", periodEnd="2026-01-31")
    finished = run_finished(
        orgId="acme",
        runId=created["runId"],
        claimIds=["taxi-17"],
        skippedClaims=[{"claimId": "bus-3", "reason": "no receipt", "code": "NO_RECEIPT"}],
        totals=[{"currency": "EUR", "claimCount": 2, "amount": "12.5"}],
    )
    file = tmp_path / "events.jsonl"
    file.write_bytes(lines_of(("run-created", created), ("run-finished", finished)))
    for _ in range(2):
        published = await forked_export_runs("publish", str(file), settings=settings)
        assert (published.code, published.out) == (0, "2 published, 0 invalid\n")
    await wire.until_run(created["runId"], status="completed", triggeredBy="alice")

    history = await forked_export_runs("history", "acme", settings=settings)
    assert history.code == 0
    for text in (created["runId"], "completed", "alice", "1 of 1 run"):
        assert text in history.out
    as_json = await forked_export_runs("history", "acme", "--json", settings=settings)
    assert json.loads(as_json.out) == await wire.result("get-export-history", orgId="acme")

    for columns in ("80", "100", "140", "200"):
        narrow = await forked_export_runs("history", "acme", settings=settings, COLUMNS=columns)
        assert max(map(len, narrow.out.splitlines())) <= int(columns)
        for text in (created["runId"], "completed", "alice", "csv"):
            assert text in narrow.out

    in_january = await forked_export_runs("period", "acme", "2026-01-31", "2026-02-28", settings=settings)
    assert in_january.code == 0
    for text in (created["runId"], "2026-01-31", "completed"):
        assert text in in_january.out
    as_json = await forked_export_runs("period", "acme", "2026-01-31", "2026-02-28", "--json", settings=settings)
    days = {"periodStart": "2026-01-31", "periodEnd": "2026-02-28"}
    assert json.loads(as_json.out) == await wire.result("check-period", orgId="acme", **days)
    last = await forked_export_runs("last-export", "acme", settings=settings)
    assert (last.code, created["runId"] in last.out) == (0, True)
    none = await forked_export_runs("last-export", "acme", "--target-system", "none", settings=settings)
    assert (none.code, none.out) == (0, "no run has exported anything\n")

    run = await forked_export_runs("run", created["runId"], settings=settings)
    for text in ("EUR 12.50 (claims: 2)", "totalsDisagree", "bus-3 (NO_RECEIPT: no receipt)"):
        assert text in run.out
    assert (run.code, "taxi-17" in run.out) == (0, True)
    listed = await forked_export_runs("claims", "list", created["runId"], "--limit", "1", settings=settings)
    assert (listed.code, "next page: --cursor" in listed.out) == (0, True)
    listed = await forked_export_runs(
        "claims", "list", created["runId"], "--outcome", "skipped", "--json", settings=settings
    )
    assert json.loads(listed.out) == await wire.result("list-run-claims", runId=created["runId"], outcome="skipped")
    assert [each["code"] for each in json.loads(listed.out)["claims"]] == ["NO_RECEIPT"]

    exported = await forked_export_runs("claims", "check", "acme", "taxi-17", "hotel-4", "--json", settings=settings)
    assert exported.code == 4
    assert [each["claimId"] for each in json.loads(exported.out)["exported"]] == ["taxi-17"]
    free = await forked_export_runs("claims", "check", "acme", "hotel-4", settings=settings)
    assert (free.code, "hotel-4" in free.out) == (0, True)

    explained = await forked_export_runs("claims", "explain", "acme", "taxi-17", settings=settings)
    assert explained.code == 0
    for text in ("has been exported", f"Run {created['runId']} exported the claim", "alice started run"):
        assert text in explained.out
    as_json = await forked_export_runs("claims", "explain", "acme", "taxi-17", "--json", settings=settings)
    assert json.loads(as_json.out) == await wire.result("explain-claim", orgId="acme", claimId="taxi-17")

    found = await forked_export_runs("claims", "find", "taxi-17", "--org", "acme", settings=settings)
    assert (found.code, created["runId"] in found.out, "exported" in found.out) == (0, True, True)


@pytest.mark.usefixtures("worker")
async def test_an_export_is_taken_back(settings: WorkerSettings, wire: Wire) -> None:
    finished = run_finished(orgId="acme", claimIds=["taxi-1", "taxi-2"])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    facts = ("--reason", "the ledger refused it", "--by", "bob", "--approved-by")
    command = ("reverse", "acme", finished["runId"], *facts)
    refused = await forked_export_runs(*command, "bob", settings=settings)
    assert (refused.code, "approvedBy: must be another person than reversedBy" in refused.err) == (2, True)
    done = await forked_export_runs(*command, "carol", "--claim", "taxi-1", settings=settings)
    assert (done.code, "taxi-1" in done.out, "taxi-2" in done.out) == (0, True, False)
    again = await forked_export_runs(*command, "carol", "--claim", "taxi-1", "--json", settings=settings)
    assert json.loads(again.out) == {"runId": finished["runId"], "reversed": ["taxi-1"]}
    checked = await wire.result("check-claims", orgId="acme", claimIds=["taxi-1", "taxi-2"])
    assert checked["unexported"] == ["taxi-1"]


@pytest.mark.usefixtures("worker")
async def test_a_refused_request_prints_its_error(settings: WorkerSettings) -> None:
    unknown = await forked_export_runs("run", str(uuid4()), settings=settings)
    assert (unknown.code, unknown.err) == (1, "RUN_NOT_FOUND: there is no such run\n")
    not_an_id = await forked_export_runs("run", "42", settings=settings)
    assert (not_an_id.code, not_an_id.err.startswith("runId: ")) == (2, True)
    cursor = await forked_export_runs("history", "acme", "--cursor", "nonsense", settings=settings)
    assert (cursor.code, "cursor: " in cursor.err) == (1, True)
    with_offset = await forked_export_runs("history", "acme", "--cursor", "x", "--offset", "1", settings=settings)
    assert (with_offset.code, with_offset.err) == (2, "cursor: excludes offset\n")


async def test_version(settings: WorkerSettings) -> None:
    printed = await forked_export_runs("--version", settings=settings)
    assert (printed.code, printed.out) == (0, f"export-runs {metadata.version('export-run-repository')}\n")


async def test_migrate_prints_the_migrations_it_applied(settings: WorkerSettings) -> None:
    migrate = await forked_export_runs("migrate", settings=settings)
    assert (migrate.code, migrate.out) == (0, "nothing to do: the schema is up to date\n")
    migrate = await forked_export_runs("migrate", "--json", settings=settings)
    assert json.loads(migrate.out) == {"applied": []}
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    worker = await export_runs("worker", settings=settings)
    assert worker.code == 1
    sentences = [line for line in worker.err.splitlines() if not line.startswith("{")]
    assert len(sentences) == 1, "both parts have this reason"
    assert "run `export-runs migrate` first" in sentences[0]
    migrate = await forked_export_runs("migrate", settings=settings)
    assert (migrate.code, migrate.out.splitlines()[0]) == (0, "applied 0001 export_runs")
    await connection.execute("UPDATE export_runs_migrations SET sha256 = 'edited'")
    await connection.close()
    migrate = await forked_export_runs("migrate", settings=settings)
    assert (migrate.code, "was edited after it was applied" in migrate.err) == (1, True)


@pytest.mark.usefixtures("worker")
async def test_purge_names_the_claims_that_it_frees(settings: WorkerSettings, wire: Wire) -> None:
    finished = run_finished(claimIds=["taxi-17"])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    plan = await forked_export_runs("purge", finished["runId"], settings=settings)
    assert plan.code == 0
    assert "claim taxi-17 would count as unexported now" in plan.out
    plan = await forked_export_runs("purge", finished["runId"], "--json", settings=settings)
    assert json.loads(plan.out) == {
        "runId": finished["runId"],
        "orgId": "org-1",
        "status": "completed",
        "freedClaims": ["taxi-17"],
        "dryRun": True,
    }
    disabled = await forked_export_runs("purge", finished["runId"], "--yes", settings=settings)
    assert (disabled.code, "EXPORT_RUNS_PURGE_ENABLED" in disabled.err) == (1, True)
    assert await wire.run(finished["runId"]) is not None
    variables = {"EXPORT_RUNS_PURGE_ENABLED": "true"}
    purge = await forked_export_runs("purge", finished["runId"], "--yes", settings=settings, **variables)
    assert purge.code == 0
    assert "claim taxi-17 counts as unexported now" in purge.out
    assert await wire.run(finished["runId"]) is None
    second = await forked_export_runs("purge", finished["runId"], "--yes", settings=settings, **variables)
    assert (second.code, second.err) == (1, "there is no such run\n")


async def test_services_that_do_not_answer(settings: WorkerSettings) -> None:
    nowhere = {"EXPORT_RUNS_AMQP_URL": "amqp://guest:secret@127.0.0.1:1/"}
    unreachable = await forked_export_runs("history", "acme", settings=settings, **nowhere)
    assert (unreachable.code, "secret" in unreachable.err) == (3, False)
    nowhere = {"EXPORT_RUNS_DATABASE_URL": "postgresql://postgres:secret@127.0.0.1:1/x"}
    unreachable = await forked_export_runs("migrate", settings=settings, **nowhere)
    assert (unreachable.code, "secret" in unreachable.err) == (3, False)


async def test_a_command_fails_at_once_if_no_worker_has_ever_run(settings: WorkerSettings, wire: Wire) -> None:
    await wire.channel.queue_delete("export-runs.rpc.check-claims")
    check = await forked_export_runs("claims", "check", "acme", "taxi-17", settings=settings)
    assert (check.code, "Traceback" in check.err) == (3, False)


async def test_a_wrong_setting_is_named(settings: WorkerSettings) -> None:
    wrong = await forked_export_runs("worker", settings=settings, EXPORT_RUNS_HEARTBEAT_S="0")
    assert (wrong.code, wrong.err.startswith("EXPORT_RUNS_HEARTBEAT_S: ")) == (2, True)


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all its subcommands, each with the words that call it."""
    yield words, command
    for name in command.list_commands(None) if hasattr(command, "commands") else ():
        yield from commands(command.get_command(None, name), (*words, name))


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_the_help_of_a_command_explains_it_and_each_option(words: tuple[str, ...], command: Any) -> None:
    parameters = [parameter for parameter in command.params if not parameter.hidden]
    assert command.help
    assert [parameter.name for parameter in parameters if not parameter.help] == []
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    options = [option for parameter in parameters for option in parameter.opts if option.startswith("--")]
    assert [option for option in options if option not in result.output] == []
    assert "<bool>" not in result.output  # a flag takes no value


def test_a_paragraph_of_help_is_as_wide_as_the_terminal() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["status", "--help"])
    assert "Exit code 3 if RabbitMQ or PostgreSQL cannot be asked, and why; the rest is shown" in result.output
