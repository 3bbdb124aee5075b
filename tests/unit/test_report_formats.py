"""What the formats of a report do at their bounds, and with sums that a float could not hold."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from asyncpg import Record
from openpyxl import load_workbook

from cli.reports import page, workbook
from cli.reports.about import Summary
from cli.reports.charts import Chart, svg
from cli.reports.control import ControlLine, ControlTotals, differing
from cli.reports.page import ReportPage
from cli.reports.values import Value, csv_text, json_value
from cli.reports.workbook import ReportWorkbook
from handlers.reports import Control, ReportedLog

SUMMARY = Summary(ControlTotals(), [ControlLine("runs", "2", "1", "a rule")], {"claims": "00"}, "ff")


def claim(**others: Any) -> Record:
    row: Mapping[str, Any] = {"outcome": "exported", "currency": "EUR", "amount": Decimal("0.0001"), **others}
    return cast(Record, row)


@pytest.mark.parametrize(
    ("value", "in_csv", "in_json"),
    [
        ("=1+1", "'=1+1", "=1+1"),
        ("+1", "'+1", "+1"),
        ("-1", "'-1", "-1"),
        ("@x", "'@x", "@x"),
        ("\tx", "'\tx", "\tx"),
        ("\uff1dx", "'\uff1dx", "\uff1dx"),
        ("'x", "''x", "'x"),
        ("x=1", "x=1", "x=1"),
        (Decimal("-12.5"), "-12.50", "-12.50"),
        (-3, "-3", -3),
        (None, "", None),
        (True, "true", True),
        (datetime(2026, 1, 31, 23, 30, tzinfo=UTC), "2026-01-31T23:30:00Z", "2026-01-31T23:30:00Z"),
        (date(2026, 1, 31), "2026-01-31", "2026-01-31"),
    ],
)
def test_a_value_is_written(value: Value, in_csv: str, in_json: object) -> None:
    assert (csv_text(value), json_value(value)) == (in_csv, in_json)


def test_sums_are_exact_and_what_does_not_agree_is_found() -> None:
    totals = ControlTotals()
    totals.add("runs", claim())
    for amount in ("999999999999999999.9999", "0.0001", "-0.0001"):
        totals.add("claims", claim(amount=Decimal(amount)))
    totals.add("claims", claim(outcome="reversed", amount=None))
    totals.add("claims", claim(outcome="skipped"))
    assert totals.sentence() == (
        "5 claims (3 exported, 1 reversed, 1 skipped) in 1 run; "
        "amounts that went out: EUR 999999999999999999.9999; 1 claim went out without a known amount"
    )
    lines = totals.lines(Control(1, 4, 1, 1, 0), ReportedLog(7))
    assert [line.what for line in differing(lines)] == ["claims in EUR that went out", "their amount in EUR"]
    totals.add("totals", claim(exported_claims=3, exported_amount=Decimal("999999999999999999.9999"), told_claims=None))
    assert differing(totals.lines(Control(1, 4, 1, 1, 0), ReportedLog(7))) == []
    assert len(differing(totals.lines(Control(2, 5, 0, 0, 1), ReportedLog(7)))) == 5


def test_a_table_that_is_too_long_for_a_sheet_goes_on_in_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbook, "SHEET_ROWS_MAX", 3)
    path = tmp_path / "report.xlsx"
    writer = ReportWorkbook(path)
    for name, rows in (("claims", 3), ("runs", 2)):
        writer.begin_table(name, ["number", "amount"])
        for number in range(rows):
            writer.add([number, Decimal("123456789012345.6") + number if number else Decimal("12345678901234.5")])
        writer.end_table()
    writer.finish({"=name": "=1+1"}, SUMMARY)
    sheets = {sheet.title: [[cell.value for cell in row] for row in sheet.rows] for sheet in load_workbook(path)}
    assert list(sheets) == ["claims", "claims 2", "runs", "about"]
    assert [row[0] for row in sheets["claims"]] == ["number", 0, 1]
    assert [row[1] for row in sheets["claims"]] == ["amount", 12345678901234.5, "123456789012346.60"]  # 15 digits, 16
    assert sheets["claims 2"] == [["number", "amount"], [2, "123456789012347.60"]]
    assert sheets["about"][0][0] == "DOES NOT ADD UP"
    assert sheets["about"][1][:2] == ["=name", "=1+1"]


def test_a_page_has_the_first_rows_of_a_table_and_says_how_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "TABLE_ROWS_MAX", 2)
    path = tmp_path / "report.html"
    writer = ReportPage(path, is_certificate=False)
    for name, rows in (("claims", 3), ("runs", 2)):
        writer.begin_table(name, ["claim_id", "skip_reason"])
        for number in range(rows):
            writer.add([f"<b>{name}-{number}\u202e</b>", None])
        writer.end_table()
    writer.finish({"position in the log": "7"}, SUMMARY)
    text = path.read_text(encoding="utf-8")
    assert [f"&lt;b&gt;claims-{number}\\u202e&lt;/b&gt;" in text for number in range(3)] == [True, True, False]
    assert "The first 2 of 3 rows." in text
    assert "The first 2 of 2 rows." not in text
    assert "without a value: skip reason" in text
    assert "It does not add up." in text


def test_a_plot_has_no_script_no_time_and_no_random_name() -> None:
    chart = Chart("Claims", ["a", "</svg><script>"], {"exported": [1, 2], "skipped": [0, 3]})
    picture = svg(chart, 1)
    assert picture == svg(chart, 1)
    assert "<script" not in picture
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")
    assert f"{datetime.now(UTC):%F}" not in picture


def test_times_that_a_spreadsheet_does_not_know_are_texts(tmp_path: Path) -> None:
    """Spreadsheets begin with 1900. The clock of one exporter must not end the report of all."""
    path = tmp_path / "report.xlsx"
    writer = ReportWorkbook(path)
    writer.begin_table("runs", ["at", "bytes"])
    writer.add([datetime(1, 1, 2, tzinfo=UTC), 2**63 - 1])
    writer.add([datetime(1899, 12, 31, 23, 59, 59, tzinfo=UTC), 10**15 - 1])
    writer.add([datetime(1900, 3, 1, tzinfo=UTC), 10**15])
    writer.add([datetime(9999, 12, 30, tzinfo=UTC), 0])
    writer.finish({}, SUMMARY)
    rows = [[cell.value for cell in row] for row in load_workbook(path)["runs"].iter_rows(min_row=2)]
    cells = [[f"{at:%F}" if isinstance(at, datetime) else at, size] for at, size in rows]
    assert cells == [
        ["0001-01-02T00:00:00Z", "9223372036854775807"],
        ["1899-12-31T23:59:59Z", 999999999999999],
        ["1900-03-01", "1000000000000000"],
        ["9999-12-30", 0],
    ]
