"""Records as a file has them: rows, their cells, and what a cell is as a text."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

REASON_HEADING: Final = "import_reason"
"""The column that a file of refused rows has beside those of the input. It is left out when the file is read again."""

NUMBER_CHARS_MAX: Final = 1_000
"""A number with more digits is written with an exponent: `1e999999999` would fill the memory."""

CHUNK_BYTES: Final = 1024 * 1024


EXCEL_FIRST_DAY: Final = datetime(1899, 12, 30)  # noqa: DTZ001 -- it gets the time zone of the mapping
"""Spreadsheets count days from it, but for some that a Macintosh made."""

NO_RESULT: Final = "#N/A"
"""What a spreadsheet shows where it has no result; it can be no value of any field."""


class UnreadableCell(ValueError):
    """A cell that says nothing that its field could hold; the text says why, and does not repeat the cell."""


@dataclass(frozen=True, slots=True)
class UnknownResult:
    """A cell of a workbook with a formula whose result is not in the file."""


Cell: TypeAlias = str | Decimal | datetime | list[Any] | UnknownResult | None
"""What a cell holds. Only a workbook and JSON have more than texts."""

Raw: TypeAlias = Any
"""A row as its file has it, in a form that JSON can say, so that it can be written back."""

NumberedRecords: TypeAlias = Iterator[tuple[int, Sequence[Cell]]]
"""The rows of a table, each with its number in the file. The first is 1."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number in the file, its cells by their headings, and what it was read from."""

    number: int
    cells: dict[str, Cell]
    raw: Raw
    problem: str | None = None
    """What is wrong with the row as a whole."""


class RecordFile(Protocol):
    """A file of old records."""

    path: Path
    description: str
    """What was recognised: the format, the encoding, the delimiter; once the rows are read, where the headings are."""

    bytes_total: int
    bytes_read: int
    """How large the file is, and how far it was read."""

    first_day: datetime
    """The day from which it counts, where a time is a number."""

    def rows(self) -> Iterator[Row]:
        """The rows below the headings that are not blank. Raises FileRefused."""

    def write_rejects(self, path: Path, rejects: Iterable[tuple[Raw, str]]) -> None:
        """Write rows to a file of the same format, each with its reason."""


class TableFile(RecordFile, Protocol):
    """A file of rows and columns."""

    sheet_title: str | None
    other_sheets: list[str]
    """Of a workbook the sheet that is read, and those that are not."""

    def records(self) -> NumberedRecords:
        """All rows. Raises FileRefused."""


def without_reason(headings: Iterable[str]) -> list[str]:
    """The headings of what the file says itself."""
    return [heading for heading in headings if heading != REASON_HEADING]


def is_given(cell: Cell) -> bool:
    """Whether a cell is not blank."""
    return bool(cell.strip()) if isinstance(cell, str) else cell is not None


def number_text(number: Decimal) -> str:
    """A number with all its digits, and without an exponent unless it would have more than NUMBER_CHARS_MAX of them."""
    if abs(number.adjusted()) > NUMBER_CHARS_MAX:
        return str(number)
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain_text(cell: Cell) -> str:
    """A cell as a text, without white space at its ends; empty where it is blank."""
    match cell:
        case None:
            return ""
        case str():
            return cell.strip()
        case Decimal():
            return number_text(cell)
        case datetime():
            return cell.isoformat()
        case UnknownResult():
            return NO_RESULT
        case _:
            return json.dumps(cell, default=str)
