"""The parts of a workbook, and its sheets row by row, in bounded memory. Whoever made the file may mean ill."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import IO, Any, Final
from zipfile import ZipFile

from openpyxl.reader.excel import ExcelReader
from openpyxl.styles.numbers import BUILTIN_FORMATS, BUILTIN_FORMATS_MAX_SIZE
from openpyxl.styles.stylesheet import apply_stylesheet
from openpyxl.worksheet._reader import DATA_TAG, FORMULA_TAG, ROW_TAG, VALUE_TAG, WorkSheetParser
from openpyxl.xml.constants import SHEET_MAIN_NS
from openpyxl.xml.functions import fromstring, iterparse

from cli.imports.records import UnknownResult
from cli.imports.tables import COLUMNS_MAX

# `_reader` and some attributes of a workbook are private, and a test notices when openpyxl changes them. The public way
# is a worksheet that is read only: it keeps something of each row that has a style, so the memory grows with the file;
# it pads rows to any width that the file claims; and it tells neither which rows are hidden nor where a formula has no
# result.

PART_BYTES_MAX: Final = 256 * 1024 * 1024
"""Unpacked, of a part that is held in memory, such as the table of texts. A small file can hold a huge part."""

ROW_BYTES_MAX: Final = 16 * 1024 * 1024
"""Unpacked, of a row of a sheet, and of what stands before its first row."""

SHEET_ROWS_MAX: Final = 1_048_576
"""What spreadsheet programs have."""

# It warns of what it does not support, and of dates that are none, which are refused with their row.
warnings.filterwarnings("ignore", module=r"openpyxl\.")

_CALCULATION_TAG: Final = f"{{{SHEET_MAIN_NS}}}calcPr"
_TRUE: Final = ("1", "true")


class UnreadableWorkbook(Exception):
    """A file that is no workbook, or one past a bound; the text says why."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet of a workbook, and the name of its part."""

    title: str
    is_hidden: bool
    part: str


@dataclass(frozen=True, slots=True)
class SheetCell:
    """A cell, and how its number is shown."""

    value: Any
    form: str


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A row of a sheet from its first column to the last one that the file has, each cell there or None."""

    number: int
    is_hidden: bool
    cells: list[SheetCell | None]


class WorkbookParts:
    """What is read of a workbook: its list of sheets, its styles, its table of texts, and the rows of one sheet."""

    def __init__(self, file: IO[bytes]) -> None:
        """Read all but the sheets. Raises UnreadableWorkbook, and whatever the library raises for a damaged file."""
        reader = ExcelReader(file, read_only=True, data_only=True, keep_links=False)
        self._archive = reader.archive = _Archive(file)
        reader.read_manifest()
        reader.read_strings()
        reader.read_workbook()
        apply_stylesheet(self._archive, reader.wb)
        self.sheets = [
            Sheet(sheet.name, sheet.state != "visible", relation.target)
            for sheet, relation in reader.parser.find_sheets()
            if relation.target in reader.valid_files and "chartsheet" not in relation.Type
        ]
        self._texts = reader.shared_strings
        self._workbook: Any = reader.wb
        # A program that cannot calculate asks others to do it, and writes a zero or nothing as the result of a formula.
        calculation = fromstring(self._archive.read(reader.parser.workbook_part_name)).find(_CALCULATION_TAG)
        self._is_calculated = calculation is None or calculation.get("fullCalcOnLoad") not in _TRUE
        self.first_day: datetime = self._workbook.epoch
        self._form = lru_cache(maxsize=None)(self._form_of_style)

    def rows(self, sheet: Sheet) -> Iterator[SheetRow]:
        """The rows of a sheet in their order; those that the file leaves out are blank.

        Raises UnreadableWorkbook, and whatever the library raises for a damaged file.
        """
        with self._archive.open_sheet(sheet.part) as part:
            source = _BoundedPart(part)
            parser = _SheetParser(
                source,
                self._texts,
                data_only=True,
                epoch=self._workbook.epoch,
                date_formats=self._workbook._date_formats,
                timedelta_formats=self._workbook._timedelta_formats,
            )
            parser.is_calculated = self._is_calculated
            last = 0
            for number, cells, is_hidden in parser.rows():
                if number <= last:
                    raise UnreadableWorkbook(f"row {number}: comes after row {last}")
                if number > SHEET_ROWS_MAX:
                    raise UnreadableWorkbook(f"row {number}: is past the last row that a sheet can have")
                last = source.row = number
                source.row_bytes = 0
                yield SheetRow(number, is_hidden, self._placed(number, cells))

    def _placed(self, number: int, cells: list[dict[str, Any]]) -> list[SheetCell | None]:
        row: list[SheetCell | None] = []
        for cell in cells:
            column = cell["column"]
            if cell["row"] != number or not len(row) < column <= COLUMNS_MAX:
                raise UnreadableWorkbook(f"row {number}: its cells are not in their order")
            row.extend([None] * (column - len(row) - 1))
            row.append(SheetCell(cell["value"], self._form(cell["style_id"])) if cell["value"] is not None else None)
        return row

    def _form_of_style(self, style_id: int) -> str:
        number = self._workbook._cell_styles[style_id].numFmtId
        if number < BUILTIN_FORMATS_MAX_SIZE:
            return BUILTIN_FORMATS.get(number) or "General"
        form: str = self._workbook._number_formats[number - BUILTIN_FORMATS_MAX_SIZE]
        return form


class _Archive(ZipFile):
    """The file of a workbook. Only a sheet, which is read row by row, may be large."""

    def open(self, name: Any, *arguments: Any, **options: Any) -> Any:
        part = self.getinfo(name) if isinstance(name, str) else name
        if part.file_size > PART_BYTES_MAX:
            raise UnreadableWorkbook(f"its part {part.filename} has more than {PART_BYTES_MAX:,} bytes when unpacked")
        return super().open(name, *arguments, **options)

    def open_sheet(self, name: str) -> IO[bytes]:
        """Open a part of any size."""
        return super().open(name)


class _BoundedPart:
    """The part of a sheet. It is refused where a row takes more than ROW_BYTES_MAX."""

    def __init__(self, part: IO[bytes]) -> None:
        self._part = part
        self.row = 0
        self.row_bytes = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._part.read(size)
        self.row_bytes += len(chunk)
        if self.row_bytes > ROW_BYTES_MAX:
            raise UnreadableWorkbook(f"row {self.row + 1}: has more than {ROW_BYTES_MAX:,} bytes when unpacked")
        return chunk


class _SheetParser(WorkSheetParser):
    """Reads rows, and forgets each: its base keeps something of all of them, and of what stands below them."""

    is_calculated = True
    """Whether the results of formulas are those of a spreadsheet program."""

    def rows(self) -> Iterator[tuple[int, list[dict[str, Any]], bool]]:
        """The rows with their numbers, their cells, and whether they are hidden."""
        parent: Any = None
        for event, element in iterparse(self.source, events=("start", "end")):
            if event == "start":
                parent = element if element.tag == DATA_TAG else parent
            elif element.tag == ROW_TAG:
                number, cells = self.parse_row(element)
                is_hidden = element.get("hidden") in _TRUE
                self.row_dimensions.clear()
                element.clear()
                if parent is not None:
                    parent.clear()
                yield number, cells, is_hidden
            elif element.tag == DATA_TAG:
                return

    def parse_cell(self, element: Any) -> dict[str, Any]:
        """A cell with its value, or UnknownResult where that of a formula is not known."""
        cell = super().parse_cell(element)
        formula = element.find(FORMULA_TAG)
        if formula is not None and not self._has_result(element):
            cell["value"] = UnknownResult()
        return cell

    def _has_result(self, element: Any) -> bool:
        return self.is_calculated and (element.get("t") == "str" or bool(element.findtext(VALUE_TAG)))
