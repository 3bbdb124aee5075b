"""A report as an XLSX workbook. Rows go to the disk at once, so the memory does not grow with the report."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.reports.about import Summary
from cli.reports.values import Value, value_text
from worker.logs import escape_unprintable

if TYPE_CHECKING:
    from xlsxwriter.worksheet import Worksheet

SHEET_ROWS_MAX: Final = 1_048_576
"""Of a worksheet; more rows go to another one."""

EXACT_DIGITS_MAX: Final = 15
"""A spreadsheet keeps so many digits of a number. One with more is written as text."""

FIRST_TIME: Final = datetime(1900, 3, 1, tzinfo=UTC)
"""A spreadsheet knows no time before 1900, and takes that year for a leap year. An earlier time is written as text."""

AMOUNT_FORMAT: Final = "#,##0.00##"
TIME_FORMAT: Final = "yyyy-mm-dd hh:mm:ss"
COLUMN_CHARS: Final = 18

PROPERTIES_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The time in the properties, so that the same report has the same bytes."""


class ReportWorkbook:
    """Writes each table to a worksheet, or to several where one would be too long."""

    def __init__(self, path: Path) -> None:
        from xlsxwriter import Workbook

        self._workbook = Workbook(str(path), {"constant_memory": True, "tmpdir": str(path.parent)})
        self._workbook.set_properties({"created": PROPERTIES_TIME})
        self._amount = self._workbook.add_format({"num_format": AMOUNT_FORMAT})
        self._time = self._workbook.add_format({"num_format": TIME_FORMAT})
        self._sheet: Worksheet
        self._name = ""
        self._columns: Sequence[str] = ()
        self._sheets = 0
        self._rows = 0

    def begin_table(self, name: str, columns: Sequence[str]) -> None:
        """Begin a table."""
        self._name, self._columns, self._sheets = name, columns, 0
        self._begin_sheet()

    def _begin_sheet(self) -> None:
        self._sheets += 1
        self._sheet = self._workbook.add_worksheet(self._name if self._sheets == 1 else f"{self._name} {self._sheets}")
        self._sheet.freeze_panes(1, 0)
        self._sheet.set_column(0, len(self._columns), COLUMN_CHARS)
        self._rows = 0
        self._add(self._columns)

    def add(self, row: Sequence[Value]) -> None:
        """Add a row to the table."""
        if self._rows == SHEET_ROWS_MAX:
            self._begin_sheet()
        self._add(row)

    def end_table(self) -> None:
        """End the table."""

    def finish(self, about: Mapping[str, str], summary: Summary) -> None:
        """Write what is known at the end to a sheet, which a spreadsheet shows first, and close the file."""
        self._sheet, self._rows = self._workbook.add_worksheet("about"), 0
        self._sheet.set_column(0, 0, 2 * COLUMN_CHARS)
        self._add(("adds up" if summary.agrees else "DOES NOT ADD UP", summary.totals.sentence()))
        for parameter in about.items():
            self._add(parameter)
        self._rows += 1
        self._add(("what", "found", "expected", "by", "agrees"))
        for line in summary.lines:
            self._add((line.what, line.found, line.expected, line.by, line.agrees))
        self._rows += 1
        self._add(("table as CSV", "SHA-256"))
        for name, digest in sorted(summary.digests.items()):
            self._add((f"{name}.csv", digest))
        self._add(("SHA256SUMS", summary.digest))
        self._sheet.activate()
        self._workbook.close()

    def _add(self, row: Sequence[Value]) -> None:
        for place, value in enumerate(row):
            if value is not None:
                self._write_cell(place, value)
        self._rows += 1

    def _write_cell(self, place: int, value: Value) -> None:
        match value:
            case bool():
                self._sheet.write_boolean(self._rows, place, value)
            case int() if abs(value) < 10**EXACT_DIGITS_MAX:
                self._sheet.write_number(self._rows, place, value)
            case Decimal() if len(value.as_tuple().digits) <= EXACT_DIGITS_MAX:
                self._sheet.write_number(self._rows, place, value, self._amount)
            case datetime() if value >= FIRST_TIME:
                self._sheet.write_datetime(self._rows, place, value.astimezone(UTC).replace(tzinfo=None), self._time)
            case str():
                self._sheet.write_string(self._rows, place, escape_unprintable(value))  # never a formula
            case _:
                self._sheet.write_string(self._rows, place, value_text(value))
