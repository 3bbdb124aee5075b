"""The commands that verify and rebuild the tables, as an operator calls them."""

import json

import pytest

from sql.connection import Connection
from tests.forked import forked_export_runs
from tests.log_history import RUN_A, write_history
from worker.settings import WorkerSettings


async def test_verify_ends_with_0_where_nothing_differs(settings: WorkerSettings, connection: Connection) -> None:
    await write_history(connection)
    verified = await forked_export_runs("verify", settings=settings)
    assert verified.code == 0
    assert "0 differences. Leases, and alerts that wait, do not follow from the log" in verified.out
    as_json = await forked_export_runs("verify", "--json", "--org", "org-1", settings=settings)
    result = json.loads(as_json.out)
    assert (as_json.code, result["differenceCount"], result["differences"]) == (0, 0, [])
    assert result["rows"]["export_runs"] == await connection.fetchval(
        "SELECT count(*) FROM export_runs WHERE org_id = 'org-1'"
    )
    assert result["notCompared"] == ["alerts", "claim_leases"]


async def test_verify_ends_with_1_and_a_list_where_something_differs(
    settings: WorkerSettings, connection: Connection
) -> None:
    await write_history(connection)
    await connection.execute("UPDATE export_runs SET status = 'partial' WHERE run_id = $1", RUN_A)
    await connection.execute("DELETE FROM export_run_claims WHERE run_id = $1 AND claim_id = 'c-3'", RUN_A)
    verified = await forked_export_runs("verify", "--since", "1h", settings=settings)
    assert verified.code == 1
    run = f'export_runs {{"run_id": "{RUN_A}"}} is {{"status": "partial"}}, by the log it is {{"status": "completed"}}'
    assert run in verified.out
    assert '"claim_id": "c-3"' in verified.out
    assert "is missing, by the log it is" in verified.out
    as_json = await forked_export_runs("verify", "--json", settings=settings)
    [claim, run] = sorted(json.loads(as_json.out)["differences"], key=lambda each: str(each["table"]))
    assert as_json.code == 1
    assert (claim["stored"], claim["byLog"]["outcome"]) == (None, "exported")
    assert (run["stored"], run["byLog"]) == ({"status": "partial"}, {"status": "completed"})


async def test_verify_of_one_organisation_and_since_is_wrong_usage(settings: WorkerSettings) -> None:
    both = await forked_export_runs("verify", "--since", "1h", "--org", "org-1", settings=settings)
    assert both.code == 2


async def test_rebuild_mends_what_verify_finds(settings: WorkerSettings, connection: Connection) -> None:
    await write_history(connection)
    await connection.execute("DELETE FROM export_run_claims WHERE run_id = $1", RUN_A)
    planned = await forked_export_runs("rebuild", "--dry-run", settings=settings)
    assert (planned.code, "nothing was done; leave out --dry-run to do it" in planned.err) == (0, True)
    assert "would make anew from about " in planned.out
    assert (await forked_export_runs("verify", settings=settings)).code == 1
    rebuilt = await forked_export_runs("rebuild", "--json", settings=settings)
    result = json.loads(rebuilt.out)
    assert (rebuilt.code, result["dryRun"], result["entries"] > 0) == (0, False, True)
    assert "export_runs" in result["tables"]
    assert (await forked_export_runs("verify", settings=settings)).code == 0


async def test_a_rebuild_that_something_stands_in_the_way_of(settings: WorkerSettings, connection: Connection) -> None:
    await connection.execute("CREATE VIEW report AS SELECT run_id FROM export_runs")
    refused = await forked_export_runs("rebuild", settings=settings)
    assert refused.code == 1
    assert refused.err.splitlines() == ["rule _RETURN on view report uses the table export_runs; nothing was changed"]
    planned = await forked_export_runs("rebuild", "--dry-run", "--json", settings=settings)
    result = json.loads(planned.out)
    assert (planned.code, result["dryRun"]) == (1, True)
    assert result["obstacles"] == ["rule _RETURN on view report uses the table export_runs"]


@pytest.mark.parametrize("command", ["verify", "rebuild"])
async def test_a_database_without_the_schema_is_refused(settings: WorkerSettings, empty_url: str, command: str) -> None:
    refused = await forked_export_runs(command, settings=settings, EXPORT_RUNS_DATABASE_URL=empty_url)
    assert (refused.code, "run `export-runs migrate` first" in refused.err) == (1, True)
