"""Workbooks: .xlsx files, read row by row, and written again with the rows that were refused."""

import io
import math
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell

from cli.console import FileRefused
from cli.imports.mapping import Mapping
from cli.imports.record_files import CountedFile
from cli.imports.records import (
    NO_RESULT,
    REASON_HEADING,
    Cell,
    NumberedRecords,
    Raw,
    Row,
    UnknownResult,
    without_reason,
)
from cli.imports.sheets import Sheet, SheetCell, UnreadableWorkbook, WorkbookParts
from cli.imports.tables import find_headings, names_text, table_rows

_SIGNIFICANT_DIGITS: Final = 15
"""Of a float; a spreadsheet has no more, and what is past them is noise. A whole number is exact."""

TITLE_CHARS_MAX: Final = 31
"""Of a sheet, in spreadsheet programs."""

_NOT_IN_TITLES: Final = re.compile(r"[\\*?:/\[\]]")


class WorkbookFile:
    """One sheet of a workbook."""

    def __init__(self, path: Path, size: int, mapping: Mapping) -> None:
        self.path = path
        self._mapping = mapping
        self.bytes_total = size
        self.bytes_read = 0
        self.headings: list[str] = []
        self._hidden_rows = 0
        try:
            self._parts = WorkbookParts(io.BufferedReader(CountedFile(path, self._note)))
        except Exception as error:  # the library raises anything for a damaged file
            raise FileRefused(f"{path}: is no workbook that can be read: {_words_of(error)}") from error
        self.first_day = self._parts.first_day
        self._sheet = self._chosen_sheet()
        self.sheet_title: str | None = self._sheet.title
        self.other_sheets = [sheet.title for sheet in self._parts.sheets if sheet is not self._sheet]
        self.description = f"XLSX, sheet {self._sheet.title}"

    def _chosen_sheet(self) -> Sheet:
        """The sheet that the mapping names, or the first one that is not hidden. Raises FileRefused."""
        for sheet in self._parts.sheets:
            if sheet.title == self._mapping.sheet or (self._mapping.sheet is None and not sheet.is_hidden):
                return sheet
        titles = names_text([sheet.title for sheet in self._parts.sheets])
        wanted = "visible sheet" if self._mapping.sheet is None else f"sheet {self._mapping.sheet}"
        raise FileRefused(f"{self.path}: has no {wanted}; its sheets are: {titles}")

    def _note(self, bytes_read: int) -> None:
        self.bytes_read = min(bytes_read, self.bytes_total)

    def records(self) -> NumberedRecords:
        """All rows of the sheet that the file has. Raises FileRefused."""
        number = 0
        try:
            for row in self._parts.rows(self._sheet):
                number = row.number
                self._hidden_rows += row.is_hidden
                yield number, [_cell(cell) for cell in row.cells]
        except UnreadableWorkbook as error:
            raise FileRefused(f"{self.path}: {error}") from error
        except Exception as error:  # the library raises anything for a damaged file
            raise FileRefused(f"{self.path}: row {number + 1}: cannot be read: {_words_of(error)}") from error

    def rows(self) -> Iterator[Row]:
        """The rows below the headings that are not blank. Raises FileRefused."""
        headings, below = find_headings(self.records(), self._mapping, self.path)
        self.headings = headings.names
        self.description += f", headings in {headings.place}"
        for row in table_rows(below, self.headings, self._mapping):
            yield Row(row.number, row.cells, [_raw(cell) for cell in row.cells.values()], row.problem)
        if self._hidden_rows:
            self.description += f", hidden rows read as well: {self._hidden_rows:,}"
        self.bytes_read = self.bytes_total

    def write_rejects(self, path: Path, rejects: Iterable[tuple[Raw, str]]) -> None:
        """Write rows to a workbook, each with its reason."""
        workbook = Workbook(write_only=True)
        sheet = workbook.create_sheet(_NOT_IN_TITLES.sub("_", self._sheet.title)[:TITLE_CHARS_MAX])
        sheet.append([*without_reason(self.headings), REASON_HEADING])
        for raw, reason in rejects:
            sheet.append([*(_written(sheet, cell) for cell in raw), reason])
        workbook.save(path)


def _words_of(error: Exception) -> str:
    match error:
        case UnreadableWorkbook():
            return str(error)
        case BadZipFile() | OSError():
            return "the file is damaged"
        case KeyError():
            return "it lacks parts that an .xlsx file has"
        case _:
            return f"{type(error).__name__}: {error}"


def _cell(cell: SheetCell | None) -> Cell:
    if cell is None:
        return None
    match cell.value:
        case str() | datetime() | UnknownResult() as value:
            return value
        case bool() as value:
            return str(value).lower()
        case int() | float() as value:
            return _number(value, cell.form)
        case date() as value:
            return datetime(value.year, value.month, value.day)  # noqa: DTZ001 -- it gets the mapping's time zone
        case time() | timedelta() as value:
            return str(value)
        case value:
            return str(value)


def _number(value: float, form: str) -> Cell:
    """A number without the noise of a float. With a form of zeros, such as 00000, it is a text with these zeros."""
    if not math.isfinite(value):
        return NO_RESULT
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
        case UnknownResult():
            return NO_RESULT
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
