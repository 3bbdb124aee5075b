"""`export-runs import` makes runs of old records: the examples, twice, after a kill, with rows that are wrong."""

import asyncio
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook, load_workbook

from sql.connection import Connection
from tests.commands import COMMAND, COMMAND_TIMEOUT_S, Finished, environment
from tests.forked import forked_export_runs
from tests.pages import ROOT
from tests.wire import Wire, run_finished
from worker.settings import WorkerSettings

EXAMPLES = ROOT / "examples" / "import"

# For each example: new runs, new claims, refused rows, claims that went out twice.
EXPECTED = {
    "concur.csv": (3, 4, 0, []),
    "datev.csv": (2, 6, 0, ["000418"]),
    "expensify.jsonl": (2, 3, 0, ["900117"]),
    "fortnox.csv": (3, 6, 0, []),
    "hand-kept.csv": (2, 4, 3, ["taxi-17"]),
    "tripletex.csv": (2, 4, 0, []),
    "visma.csv": (2, 3, 0, []),
}

HEADER = "run;claim;at;amount"
MAPPING = """
run_key = ["run"]
[columns]
claimId = "claim"
createdAt = "at"
amount = "amount"
[constants]
orgId = "org-1"
triggeredBy = "u-1"
format = "csv"
currency = "EUR"
"""


def write_table(folder: Path, *lines: str) -> Path:
    (folder / "mapping.toml").write_text(MAPPING)
    path = folder / "table.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


async def imported(settings: WorkerSettings, path: Path, *options: str, code: int = 0) -> dict[str, Any]:
    """Import a file beside its mapping; the result as JSON."""
    mapping = path.with_name("mapping.toml")
    arguments = ["import", str(path), "--mapping", str(mapping), "--source", "sheet", "--json", *options]
    finished: Finished = await forked_export_runs(*arguments, settings=settings)
    assert finished.code == code, finished.err
    facts: dict[str, Any] = json.loads(finished.out)
    return facts


async def state(connection: Connection) -> list[object]:
    """All that is stored of runs, claims and log entries."""
    return [
        await connection.fetch("SELECT * FROM export_runs ORDER BY run_id"),
        await connection.fetch("SELECT * FROM export_run_claims ORDER BY org_id, claim_id, run_id"),
        await connection.fetch("SELECT * FROM claim_details ORDER BY run_id, event_id, claim_id"),
        await connection.fetch("SELECT * FROM export_run_events ORDER BY event_id"),
    ]


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix != ".toml"} == set(EXPECTED)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("name", EXPECTED)
async def test_an_example_is_imported_and_changes_nothing_the_second_time(
    settings: WorkerSettings, connection: Connection, tmp_path: Path, name: str
) -> None:
    path = Path(shutil.copy(EXAMPLES / name, tmp_path))
    shutil.copy(EXAMPLES / f"{path.stem}.toml", tmp_path / "mapping.toml")
    runs, claims, rejected, doubles = EXPECTED[name]
    code = 1 if rejected else 0
    first = await imported(settings, path, "--apply", code=code)
    assert (first["new"], first["rows"]["rejected"]) == (
        {"runs": runs, "claims": claims, "events": 2 * runs, "eventsStored": 2 * runs},
        rejected,
    )
    assert [each["claimId"] for each in first["doubleExports"]["claims"]] == doubles
    assert (
        await connection.fetchval("SELECT count(*) FROM export_runs WHERE imported AND created_event_id IS NOT NULL")
        == runs
    )
    assert await connection.fetchval("SELECT count(*) FROM export_run_claims") == claims
    assert {row["claim_id"] for row in await connection.fetch("SELECT claim_id FROM double_exported_claims")} == set(
        doubles
    )
    assert await connection.fetchval("SELECT count(*) FROM alerts") == 0
    assert await connection.fetch("SELECT run_id FROM export_runs WHERE totals_disagree OR has_conflict") == []
    before = await state(connection)
    again = await imported(settings, path, "--apply", code=code)
    assert (again["new"]["runs"], again["known"]) == (0, {"runs": runs, "claims": claims})
    assert [each["claimId"] for each in again["doubleExports"]["claims"]] == doubles
    assert await state(connection) == before


@pytest.mark.usefixtures("worker")
async def test_credits_that_have_a_sign_of_their_own_are_subtracted_in_totals_and_reports(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    path = Path(shutil.copy(EXAMPLES / "datev.csv", tmp_path))
    shutil.copy(EXAMPLES / "datev.toml", tmp_path / "mapping.toml")
    facts = await imported(settings, path, "--apply")
    assert facts["doubleExports"]["amounts"] == {"EUR": "1203.90"}
    report = tmp_path / "report.json"
    written = await forked_export_runs("report", "--format", "json", "--output", str(report), settings=settings)
    assert written.code == 0, written.err
    tables = json.loads(report.read_bytes())["tables"]
    assert {row["claim_id"]: row["amount"] for row in tables["claims"]}["000421"] == "-19.00"
    totals = sorted((row["exported_amount"], row["told_amount"]) for row in tables["totals"])
    assert totals == [("1257.00", "1257.00"), ("1271.40", "1271.40")]


async def test_a_dry_run_needs_no_service_and_finds_what_went_out_twice(tmp_path: Path) -> None:
    path = write_table(tmp_path, "1;a;2024-01-01;10.00", "2;a;2024-02-01;10.00", "2;b;2024-02-01;1.50")
    process = await asyncio.create_subprocess_exec(
        COMMAND, "import", str(path), "--mapping", str(tmp_path / "mapping.toml"), "--source", "s",
        env={"COLUMNS": "200"}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    assert (process.returncode, err) == (0, b"nothing was imported; add --apply to do it\n")
    assert b"2 new runs with 3 claims" in out
    assert b"1 claim was exported more than once; too much: EUR 10.00" in out


async def test_a_dry_run_publishes_nothing(settings: WorkerSettings, connection: Connection, tmp_path: Path) -> None:
    path = write_table(tmp_path, "1;a;2024-01-01;10.00")
    facts = await imported(settings, path)
    assert (facts["dryRun"], facts["new"]["runs"]) == (True, 1)
    assert await state(connection) == [[], [], [], []]


@pytest.mark.usefixtures("worker")
async def test_refused_rows_are_mended_and_imported(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    path = write_table(tmp_path, "1;a;2024-01-01;10.00", "2;b;2024-02-01;ten", "2;c;2024-02-01;1")
    facts = await imported(settings, path, "--apply", code=1)
    assert (facts["new"]["runs"], facts["rejects"]["runs"]) == (1, 1)
    rejects = tmp_path / "table.rejects.csv"
    text = rejects.read_text()
    assert text.splitlines()[0] == f"{HEADER};import_reason"
    assert [line.split(";")[1:5:3] for line in text.splitlines()[1:]] == [
        ["b", "row 3: amount: is no amount with the decimal sign '.' and no thousands sign"],
        ["c", "row 4: another row of the same run was refused"],
    ]
    rejects.write_text(text.replace("ten", "10"))
    assert (await imported(settings, rejects, "--apply"))["new"]["runs"] == 1
    assert await connection.fetchval("SELECT count(*) FROM export_run_claims") == 3


@pytest.mark.usefixtures("worker")
async def test_a_longer_file_adds_runs_and_leaves_the_others_as_they_are(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    old = ["1;a;2024-01-01;10.00", "2;b;2024-02-01;5"]
    await imported(settings, write_table(tmp_path, *old), "--apply")
    before = await connection.fetch("SELECT * FROM export_runs ORDER BY run_id")
    facts = await imported(
        settings, write_table(tmp_path, *old, "1;z;2024-01-01;1", "3;c;2024-03-01;5"), "--apply", code=1
    )
    assert (facts["new"]["runs"], facts["known"]["runs"]) == (1, 1)
    assert facts["rejects"]["firstRows"] == {
        "the run was imported before, with other rows; nothing of it is changed": [2, 4]
    }
    after = await connection.fetch("SELECT * FROM export_runs ORDER BY run_id")
    assert [row for row in after if row in before] == before
    assert len(after) == 3


@pytest.mark.usefixtures("worker")
async def test_a_killed_import_is_finished_by_the_next(
    settings: WorkerSettings, connection: Connection, wire: Wire, tmp_path: Path
) -> None:
    path = write_table(tmp_path, *(f"{run};c-{run}-{claim};2024-01-01;1" for run in range(300) for claim in range(2)))
    process = await asyncio.create_subprocess_exec(
        COMMAND, "import", str(path), "--mapping", str(tmp_path / "mapping.toml"), "--source", "sheet",
        "--apply", "--rate", "100", env=environment(settings), stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(COMMAND_TIMEOUT_S):
        while not await connection.fetchval("SELECT count(*) FROM export_runs"):
            await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") < 600
    facts = await imported(settings, path, "--apply")
    assert facts["new"]["runs"] + facts["known"]["runs"] == 300
    counts = "SELECT count(*), count(finished_event_id), count(created_event_id), sum(claim_count) FROM export_runs"
    assert tuple(await connection.fetchrow(counts) or ()) == (300, 300, 300, 600)
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 600


@pytest.mark.usefixtures("worker")
async def test_alerts_come_where_they_are_asked_for(
    settings: WorkerSettings, connection: Connection, wire: Wire, tmp_path: Path
) -> None:
    await imported(settings, write_table(tmp_path, "1;a;2024-01-01;1", "2;a;2024-01-02;1"), "--apply", "--alerts")
    alert = json.loads((await wire.take_from("export-runs.alerts")).body)
    assert alert["claimIds"] == ["a"]


@pytest.mark.usefixtures("worker")
async def test_claims_that_the_service_has_exported_too_are_shown(
    settings: WorkerSettings, wire: Wire, tmp_path: Path
) -> None:
    event = run_finished(claimIds=["a"])
    await wire.publish("run-finished", event)
    await wire.until_run(event["runId"], status="completed")
    facts = await imported(settings, write_table(tmp_path, "1;a;2024-01-01;1"))
    [double] = facts["doubleExports"]["claims"]
    assert (double["claimId"], double["runKeys"]) == ("a", ["1", f"run {event['runId']}"])


@pytest.mark.usefixtures("worker")
async def test_claims_that_another_file_exported_too_are_shown(settings: WorkerSettings, tmp_path: Path) -> None:
    """Such as the file of refused rows, once it is mended; and what is imported again is no export of another file."""
    first = ["1;a;2024-01-01;10.00", "2;b;2024-01-02;5.00"]
    await imported(settings, write_table(tmp_path, *first), "--apply")
    facts = await imported(settings, write_table(tmp_path, *first))
    assert facts["doubleExports"]["count"] == 0
    facts = await imported(settings, write_table(tmp_path, "3;a;2024-02-01;10.00", "4;c;2024-02-01;1.00"), "--apply")
    [double] = facts["doubleExports"]["claims"]
    assert (double["claimId"], double["runKeys"][0], len(double["runKeys"])) == ("a", "3", 2)
    assert facts["doubleExports"]["amounts"] == {"EUR": "10.00"}
    again = await imported(settings, write_table(tmp_path, *first, "3;a;2024-02-01;10.00"))
    assert (again["doubleExports"]["count"], again["doubleExports"]["claims"][0]["runKeys"]) == (1, ["1", "3"])


@pytest.mark.usefixtures("worker")
async def test_a_workbook_is_imported_and_its_refused_rows_are_mended(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    write_table(tmp_path)
    workbook = Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.append(["A list of exports"])
    sheet.append(HEADER.split(";"))
    sheet.append([1, 417, datetime(2024, 1, 31, 12), 12.3])  # noqa: DTZ001
    sheet.cell(3, 2).number_format = "000000"
    sheet.append([2, "b", datetime(2024, 1, 31), 1e9 / 3])  # noqa: DTZ001
    sheet.append([2, "=c", 45322, None])
    path = tmp_path / "table.xlsx"
    workbook.save(path)
    facts = await imported(settings, path, "--apply", code=1)
    assert (facts["recognised"], facts["new"]["runs"]) == ("XLSX, sheet Sheet, headings in row 2", 1)
    rows = await connection.fetch("SELECT claim_id, amount::text, currency FROM claim_details")
    assert [tuple(row) for row in rows] == [("000417", "12.3000", "EUR")]
    rejects = tmp_path / "table.rejects.xlsx"
    refused = load_workbook(rejects)
    [_, first, second] = refused.active.iter_rows(values_only=True)  # type: ignore[union-attr]
    assert (first[:3], second[:3]) == ((2, "b", datetime(2024, 1, 31)), (2, "#N/A", 45322))  # noqa: DTZ001


@pytest.mark.usefixtures("worker")
async def test_nothing_is_imported_while_a_row_with_a_claim_may_belong_to_any_run(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    """Its run could be imported without it, and could never get it then. A sum names no claim."""
    path = write_table(tmp_path, "1;a;2024-01-01;10.00", ";b;2024-01-01;5.00", ";;;15.00")
    facts = await imported(settings, path, "--apply", code=1)
    assert (facts["rows"]["withoutRun"], facts["new"]["eventsStored"]) == (1, 0)
    assert await state(connection) == [[], [], [], []]
    path.write_text(path.read_text().replace(";b", "1;b"))
    facts = await imported(settings, path, "--apply", code=1)
    assert (facts["rows"]["withoutRun"], facts["new"]["claims"]) == (0, 2)
    assert await connection.fetchval("SELECT count(*) FROM export_run_claims") == 2


async def test_a_mapping_is_suggested_and_what_it_skips_is_said(settings: WorkerSettings, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("Expenses\n31.01.2024\nBatch;Claim;Date;Amount\n7;a;31.01.2024;48,50\n")
    suggested = await forked_export_runs("import", str(path), "--suggest-mapping", settings=settings)
    assert suggested.code == 0
    assert suggested.err.splitlines() == [
        "The headings are in row 3. Rows above them are not read:",
        '  row 1: "Expenses"',
        '  row 2: "31.01.2024"',
        "Left open: orgId.",
    ]
    (tmp_path / "mapping.toml").write_text(suggested.out.replace('# orgId = "your organisation"', 'orgId = "org-1"'))
    facts = await imported(settings, path)
    assert (facts["recognised"], facts["new"]["claims"]) == ("CSV in UTF-8, delimiter ;, headings in row 3", 1)


async def test_refused_rows_are_named_and_never_written_over_the_input(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    path = write_table(tmp_path, "1;a;2024-01-01;10.00", "1;b;2024-01-01;1.234")
    arguments = ["import", str(path), "--mapping", str(tmp_path / "mapping.toml"), "--source", "s"]
    refused = await forked_export_runs(*arguments, settings=settings)
    assert "no claim was exported twice in the rows that are not refused" in refused.out
    assert "refused: 1 row (3): amount: is no amount with the decimal sign '.' and no thousands sign" in refused.out
    before = path.read_text()
    refused = await forked_export_runs(*arguments, "--rejects", str(path), settings=settings)
    assert (refused.code, f"{path.name} is there already" in refused.err, path.read_text()) == (2, True, before)


async def test_a_file_of_refused_rows_that_is_there_is_never_overwritten(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    """Somebody may be mending it; and it may be the file that is imported."""
    path = write_table(tmp_path, "1;a;2024-01-01;10.00", "2;b;2024-01-01;ten")
    assert (await imported(settings, path, code=1))["rejects"]["file"] == str(tmp_path / "table.rejects.csv")
    mended = (tmp_path / "table.rejects.csv").read_text().replace("ten", "eleven")
    (tmp_path / "table.rejects.csv").write_text(mended)
    (tmp_path / "table.rejects-2.csv").symlink_to(tmp_path / "nothing")
    third, fourth = tmp_path / "table.rejects-3.csv", tmp_path / "table.rejects-4.csv"
    arguments = ["import", str(path), "--mapping", str(tmp_path / "mapping.toml"), "--source", "s"]
    again = await forked_export_runs(*arguments, settings=settings)
    assert f"1 refused row is in {third}: mend that file and import it" in again.out
    assert f"{tmp_path / 'table.rejects.csv'} was there before, and is left as it is" in again.out
    of_rejects = await imported(settings, tmp_path / "table.rejects.csv", code=1)
    assert of_rejects["rejects"]["file"] == str(fourth)
    assert (tmp_path / "table.rejects.csv").read_text() == mended
    assert "eleven" in fourth.read_text()
    named = await forked_export_runs(*arguments, "--rejects", str(fourth), settings=settings)
    assert (named.code, "new runs" in named.out, "eleven" in fourth.read_text()) == (2, False, True)
    assert {each.name for each in tmp_path.iterdir()} == {
        "table.csv", "mapping.toml", "table.rejects.csv", "table.rejects-2.csv", third.name, fourth.name
    }  # fmt: skip


async def test_a_wrong_command_line_is_explained(settings: WorkerSettings, tmp_path: Path) -> None:
    path = write_table(tmp_path)
    for arguments in (["--source", "s"], ["--mapping", str(tmp_path / "mapping.toml")]):
        refused = await forked_export_runs("import", str(path), *arguments, settings=settings)
        assert (refused.code, "Traceback" in refused.err) == (2, False)
