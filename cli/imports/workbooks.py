"""Workbooks: .xlsx files, read row by row, and written again with the rows that were refused."""

import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

from openpyxl import Workbook, load_workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.utils.exceptions import InvalidFileException

from cli.console import FileRefused
from cli.imports.mapping import Mapping
from cli.imports.record_files import REASON_HEADING, Cell, Raw, Row, find_headings, table_rows, without_reason

_ERRORS: Final = (BadZipFile, InvalidFileException, KeyError, ValueError, OSError)
"""What the reader raises for a file that is no workbook."""

_SIGNIFICANT_DIGITS: Final = 15
"""Of a float; a spreadsheet has no more, and what is past them is noise. A whole number is exact."""


class WorkbookFile:
    """One sheet of a workbook."""

    def __init__(self, path: Path, size: int, mapping: Mapping) -> None:
        self._path = path
        self._mapping = mapping
        self.bytes_total = size
        self.bytes_read = 0
        self.headings: list[str] = []
        try:
            self._workbook = load_workbook(path, read_only=True, data_only=True)
        except _ERRORS as error:
            raise FileRefused(f"{path}: is no workbook that can be read: {error}") from error
        names = self._workbook.sheetnames
        if mapping.sheet is not None and mapping.sheet not in names:
            raise FileRefused(f"{path}: has no sheet {mapping.sheet}; its sheets are: {', '.join(names)}")
        self._sheet = self._workbook[mapping.sheet or names[0]]
        self.description = f"XLSX, sheet {self._sheet.title}"

    def rows(self) -> Iterator[Row]:
        """The rows below the headings that are not blank. Raises FileRefused."""
        self._sheet.reset_dimensions()  # what the file says of its size may be wrong
        records = (
            (number, [_cell(cell) for cell in record]) for number, record in enumerate(self._sheet.rows, start=1)
        )
        try:
            self.headings, below = find_headings(records, self._mapping, self._path)
            for row in table_rows(below, self.headings, self._mapping):
                yield Row(row.number, row.cells, [_raw(cell) for cell in row.cells.values()], row.problem)
        except _ERRORS as error:
            raise FileRefused(f"{self._path}: cannot be read as a workbook: {error}") from error
        self.bytes_read = self.bytes_total

    def write_rejects(self, path: Path, rejects: Iterable[tuple[Raw, str]]) -> None:
        """Write rows to a workbook, each with its reason."""
        workbook = Workbook(write_only=True)
        sheet = workbook.create_sheet(self._sheet.title)
        sheet.append([*without_reason(self.headings), REASON_HEADING])
        for raw, reason in rejects:
            sheet.append([*(_written(sheet, cell) for cell in raw), reason])
        workbook.save(path)


def _cell(cell: Any) -> Cell:
    value = cell.value
    match value:
        case None | str() | datetime():
            return value
        case bool():
            return str(value).lower()
        case int() | float():
            return _number(value, cell.number_format)
        case date():
            return datetime(value.year, value.month, value.day)  # noqa: DTZ001 -- it gets the mapping's time zone
        case time() | timedelta():
            return str(value)
        case _:
            return str(value)


def _number(value: float, form: str) -> Cell:
    """A number without the noise of a float. With a form of zeros, such as 00000, it is a text with these zeros."""
    number = Decimal(value) if isinstance(value, int) else Decimal(f"{value:.{_SIGNIFICANT_DIGITS}g}")
    if re.fullmatch("0{2,}", form) and number >= 0 and number == number.to_integral_value():
        return f"{number:f}".split(".")[0].zfill(len(form))
    return number


def _raw(cell: Cell) -> Raw:
    """A cell in a form that JSON can say."""
    match cell:
        case Decimal():
            return {"number": f"{cell:f}"}
        case datetime():
            return {"time": cell.isoformat()}
        case _:
            return cell


def _written(sheet: Any, raw: Raw) -> object:
    match raw:
        case {"number": str(text)}:
            number = Decimal(text)
            if abs(number) >= 10**_SIGNIFICANT_DIGITS:
                return _text_cell(sheet, text)  # whoever mends the file by a spreadsheet would else lose digits
            return int(number) if number == number.to_integral_value() else float(number)
        case {"time": str(text)}:
            return datetime.fromisoformat(text)
        case str():
            return _text_cell(sheet, raw)
        case _:
            return raw


def _text_cell(sheet: Any, text: str) -> object:
    cell = WriteOnlyCell(sheet, text)
    cell.data_type = "s"  # never a formula
    return cell
