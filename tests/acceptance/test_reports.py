"""`export-runs report`: what stands in a report is what is stored, in each format, and it is the same again later."""

import asyncio
import csv
import hashlib
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import ZipFile

from openpyxl import load_workbook

from sql.connection import Connection
from tests.forked import forked_export_runs
from tests.log_history import finish, write_history
from tests.storing import created_event, finished_event, store_created, store_finished
from worker.settings import WorkerSettings

FORMATS = ("csv", "json", "xlsx", "html")
MADE_AT = re.compile(rb"(made at.{0,80}?)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.DOTALL)
FORMULA = '=HYPERLINK("http://attacker","<script>alert(1)</script>")'

Row = Mapping[str, str]


async def report(settings: WorkerSettings, *options: str, code: int = 0) -> str:
    """What the command says."""
    finished = await forked_export_runs("report", *options, settings=settings)
    assert finished.code == code, finished.err
    return finished.out + finished.err


async def written(settings: WorkerSettings, folder: Path, *options: str) -> dict[str, Path]:
    """A report in each format."""
    folder.mkdir()
    paths = {each: folder / f"report.{each}" for each in FORMATS}
    await asyncio.gather(
        *(report(settings, "--format", each, "--output", str(path), *options) for each, path in paths.items())
    )
    return paths


def content(path: Path) -> dict[str, bytes]:
    """The parts of a report, without the time at which it was made."""
    if path.is_dir():
        parts = {each.name: each.read_bytes() for each in path.iterdir()}
    elif path.suffix == ".xlsx":
        with ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    else:
        parts = {"": path.read_bytes()}
    replaced = {name: MADE_AT.subn(rb"\1then", data) for name, data in parts.items()}
    assert sum(count for _, count in replaced.values()) == 1
    return {name: data for name, (data, _) in replaced.items()}


def csv_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


async def sums(connection: Connection) -> dict[str, Any]:
    """What the tables of a report must come to, by the stored tables."""
    outcomes = await connection.fetch("SELECT outcome::text, count(*) FROM export_run_claims GROUP BY outcome")
    amounts = await connection.fetch(
        "SELECT currency, sum(amount) FROM export_run_claims AS claim JOIN export_runs AS run USING (run_id)"
        " JOIN claim_details AS detail ON detail.event_id = run.finished_event_id AND detail.run_id = run.run_id"
        " AND detail.claim_id = claim.claim_id WHERE outcome >= 'exported' AND amount IS NOT NULL GROUP BY currency"
    )
    counts = {
        name: await connection.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
        for name, table in {
            "runs": "export_runs",
            "claims": "export_run_claims",
            "overrides": "claim_overrides",
            "reversals": "claim_reversals",
            "double_exports": "double_exported_claims",
        }.items()
    }
    return {
        "outcomes": {row[0]: row[1] for row in outcomes},
        "amounts": {row[0]: row[1] for row in amounts},
        "counts": counts,
    }


async def test_a_report_adds_up_in_each_format_and_is_the_same_again(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    await write_history(connection)
    money = [{"claimId": "=1+1", "amount": "1234567890123456.7891", "currency": "EUR"}]
    await finish(connection, "org-1", "=1+1", "-2", "'x", "\U0001f9fe", triggeredBy="u-9", claimDetails=money)
    skipped = [{"claimId": "s-1", "reason": FORMULA}]
    late = {"runId": str(uuid4()), "orgId": "org-1", "occurredAt": "2026-01-31T23:30:00Z"}
    await store_created(connection, [created_event(**late)])
    await store_finished(connection, [finished_event(**late, claimIds=["c-30"], skippedClaims=skipped)])
    expected = await sums(connection)
    first = await written(settings, tmp_path / "first")

    rows = {path.stem: csv_rows(path) for path in first["csv"].glob("*.csv")}
    assert {name: len(rows[name]) for name in expected["counts"]} == expected["counts"]
    outcomes = [row["outcome"] for row in rows["claims"]]
    assert {outcome: outcomes.count(outcome) for outcome in set(outcomes)} == expected["outcomes"]
    went_out = [row for row in rows["claims"] if row["outcome"] in ("exported", "reversed") and row["amount"]]
    for currency, amount in expected["amounts"].items():
        assert sum(Decimal(row["amount"]) for row in went_out if row["currency"] == currency) == amount
        totals = [Decimal(row["exported_amount"]) for row in rows["totals"] if row["currency"] == currency]
        assert sum(totals) == amount
    about = {row["name"]: row["value"] for row in rows["about"]}
    for name, count in expected["counts"].items():
        assert f"{count} {name}" in about["records"].split(", ")
    assert {row["agrees"] for row in rows["control"]} == {"true"}
    assert {row["remark"] for row in rows["remarks"]} >= {"pending", "conflict", "totals disagree", "deleted", "purged"}

    cells = [cell for table in rows.values() for row in table for cell in row.values()]
    assert [cell for cell in cells if cell.startswith(("=", "+", "@")) or re.match(r"-\D", cell)] == []
    assert {"'=1+1", "'-2", "''x", f"'{FORMULA}"} <= set(cells)
    assert b"<script" not in first["html"].read_bytes()
    listed = (line.split("  ") for line in (first["csv"] / "SHA256SUMS").read_text().splitlines())
    assert all(hashlib.sha256((first["csv"] / name).read_bytes()).hexdigest() == digest for digest, name in listed)

    document = json.loads(first["json"].read_bytes())
    workbook = load_workbook(first["xlsx"], read_only=True)
    for name, table in document["tables"].items():
        assert len(table) == len(rows[name])
        sheet = list(workbook[name].iter_rows())
        assert [len(sheet), len(sheet[0])] == [len(table) + 1, len(rows[name][0]) if table else len(sheet[0])]
        assert {cell.data_type for row in sheet for cell in row} <= {"s", "n", "b", "d", "inlineStr"}
    assert "1234567890123456.7891" in [each["amount"] for each in document["tables"]["claims"]]
    assert document["agrees"] is True

    position = document["about"]["position in the log"]
    await finish(connection, "org-1", "c-1", "c-99")
    await finish(connection, "org-9", "c-1")
    again = await written(settings, tmp_path / "again", "--as-of", position)
    for each in FORMATS:
        assert content(again[each]) == content(first[each])

    # A run that began at 23:30 in UTC began in the next month in Berlin.
    january, february = tmp_path / "1.json", tmp_path / "2.json"
    part = ("--org", "org-1", "--time-zone", "Europe/Berlin", "--format", "json", "--month")
    assert "0 claims in 0 runs" in await report(settings, *part, "2026-01", "--output", str(january))
    said = await report(settings, *part, "2026-02", "--output", str(february))
    assert "2 claims (1 exported, 1 skipped) in 1 run" in said
    assert [each["claim_id"] for each in json.loads(february.read_bytes())["tables"]["claims"]] == ["c-30", "s-1"]

    for options, code, sentence in (
        (("--as-of", "999999"), 1, "the log ends at position"),
        (("--org", "org-8"), 1, "the log has nothing of organisation org-8 up to position"),
        (("--output", str(january)), 1, "is there already; give another --output"),
        (("--output", str(tmp_path / "none" / "r.html")), 1, "cannot be written: No such file or directory"),
        (("--month", "2026-13"), 2, "must be a month such as 2026-01"),
        (("--from", "yesterday"), 2, "must be a day such as 2026-01-31"),
        (("--from", "0001-01-01"), 2, "must be in the years 1900 to 9998"),
        (("--from", "2026-02-01", "--to", "2026-01-31"), 2, "--to is before --from"),
        (("--month", "2026-01", "--to", "2026-01-31"), 2, "give either --month or --from and --to"),
        (("--time-zone", "Mars/Olympus"), 2, "must be a time zone such as UTC or Europe/Berlin"),
        (("--certificate", "--format", "csv"), 2, "a certificate is a page: leave out --format"),
    ):
        assert sentence in await report(settings, *options, code=code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.json", "2.json", "again", "first"]


async def test_a_report_that_does_not_add_up_says_so(
    settings: WorkerSettings, connection: Connection, tmp_path: Path
) -> None:
    await finish(connection, "org-1", "c-1")
    await connection.execute(
        "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)"
        " VALUES (gen_random_uuid(), 'run-finished', 'event', gen_random_uuid(), 'org-1', now(), '{}')"
    )
    path = tmp_path / "report.json"
    said = await report(settings, "--format", "json", "--output", str(path), code=1)
    assert "does not add up: log entries that cannot be replayed: 1; by a rule 0" in said
    assert json.loads(path.read_bytes())["agrees"] is False
