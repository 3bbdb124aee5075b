"""Files of old records: CSV and JSON Lines, read row by row, and written again with the rows that were refused."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final, Never

from cli.console import FileRefused
from cli.imports.mapping import Mapping, heading_text
from cli.imports.records import (
    EXCEL_FIRST_DAY,
    REASON_HEADING,
    Cell,
    NumberedRecords,
    Raw,
    Row,
    number_text,
    without_reason,
)
from cli.imports.tables import COLUMNS_MAX, HEADER_SEARCH_ROWS_MAX, find_headings, table_rows

CELL_CHARS_MAX: Final = 4 * 1024 * 1024
"""A cell with more characters is a quotation mark that was not closed."""

ROW_CHARS_MAX: Final = 2 * CELL_CHARS_MAX
"""A row is held in memory as a whole."""

SAMPLE_BYTES: Final = 256 * 1024
DELIMITERS: Final = (";", ",", "\t", "|")

NESTED_OBJECTS_MAX: Final = 8
"""An object inside so many others is a value, and its members are no columns."""

_LINE_END: Final = re.compile(r"\r\n|\r|\n")


@dataclass
class CountedFile(io.RawIOBase):
    """A file that says how many of its bytes were read."""

    path: Path
    report: Callable[[int], None]
    _file: io.FileIO = field(init=False)
    _bytes_read: int = 0

    def __post_init__(self) -> None:
        self._file = io.FileIO(self.path)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from any place."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; returns which it is."""
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, and report."""
        count = self._file.readinto(buffer) or 0
        self._bytes_read += count
        self.report(self._bytes_read)
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class _TextFile:
    """What CSV and JSON Lines share."""

    def __init__(self, path: Path, encoding: str, size: int, kind: str) -> None:
        self.path = path
        self.encoding = encoding
        self.bytes_total = size
        self.bytes_read = 0
        self.first_day = EXCEL_FIRST_DAY
        self.description = f"{kind} in {encoding.removesuffix('-sig').upper()}"

    def _open(self) -> io.TextIOWrapper:
        buffered = io.BufferedReader(CountedFile(self.path, self._note))
        return io.TextIOWrapper(buffered, encoding=self.encoding, newline="")

    def _note(self, bytes_read: int) -> None:
        self.bytes_read = bytes_read

    def _refuse(self, row: int, problem: str, error: Exception | None = None) -> Never:
        raise FileRefused(f"{self.path}: row {row}: {problem}") from error

    def _undecoded(self, row: int, error: UnicodeError) -> Never:
        self._refuse(row, f"is not in {self.encoding}; name the `encoding` in the mapping", error)


class CsvFile(_TextFile):
    """Comma separated values, with any delimiter."""

    def __init__(self, path: Path, encoding: str, size: int, mapping: Mapping) -> None:
        super().__init__(path, encoding, size, "CSV")
        self._mapping = mapping
        with self._open() as file:
            try:
                sample = file.read(SAMPLE_BYTES)
            except UnicodeError as error:
                raise FileRefused(f"{path}: is not in {encoding}: {error}") from error
        self.delimiter = mapping.delimiter or _delimiter_of(sample)
        self.description += f", delimiter {'tab' if self.delimiter == chr(9) else self.delimiter}"
        self.headings: list[str] = []
        self.sheet_title: str | None = None
        self.other_sheets: list[str] = []

    def records(self) -> NumberedRecords:
        """All rows of the file. Raises FileRefused."""
        csv.field_size_limit(CELL_CHARS_MAX)
        number = chars = 0

        def lines(file: io.TextIOWrapper) -> Iterator[str]:
            nonlocal chars
            while line := file.readline(ROW_CHARS_MAX + 1):
                chars += len(line)
                if chars > ROW_CHARS_MAX:
                    self._refuse(number + 1, f"has more than {ROW_CHARS_MAX:,} characters")
                yield line

        with self._open() as file:
            try:
                for number, record in enumerate(_csv_reader(lines(file), self.delimiter), start=1):
                    chars = 0
                    if len(record) > COLUMNS_MAX:
                        self._refuse(number, f"has more than {COLUMNS_MAX:,} cells; is the delimiter the right one?")
                    yield number, record
            except csv.Error as error:
                self._refuse(number + 1, f"cannot be read as CSV: {error}", error)
            except UnicodeError as error:
                self._undecoded(number + 1, error)

    def rows(self) -> Iterator[Row]:
        """The rows below the headings that are not blank. Raises FileRefused."""
        headings, below = find_headings(self.records(), self._mapping, self.path)
        self.headings = headings.names
        self.description += f", headings in {headings.place}"
        yield from table_rows(self._without_rows_in_cells(below), self.headings, self._mapping)

    def _without_rows_in_cells(self, records: NumberedRecords) -> NumberedRecords:
        """The records. Raises FileRefused where a quotation mark has taken in the rows below: they would be missing."""
        columns = self._mapping.columns
        times = [columns[name] for name in ("createdAt", "finishedAt") if name in columns]
        claims = [columns[name] for name in ("claimId", "claimIds") if name in columns]
        places = [self.headings.index(heading) for heading in (*self._mapping.run_key, *claims, *times)]
        for number, record in records:
            for cell in record if times else ():
                lines = _LINE_END.split(cell)[1:] if isinstance(cell, str) else []
                if any(self._is_row(line, places, self.headings.index(times[0])) for line in lines):
                    self._refuse(number, "a cell has whole rows in it; is a quotation mark not closed?")
            yield number, record

    def _is_row(self, line: str, places: Sequence[int], place_of_time: int) -> bool:
        """Whether a line may be a row: it has a cell for each heading, and all those that a row needs."""
        cells = next(_csv_reader([line], self.delimiter), [])
        is_whole = len(cells) == len(self.headings) and all(cells[place].strip() for place in places)
        return is_whole and re.search(r"\d", cells[place_of_time]) is not None

    def write_rejects(self, path: Path, rejects: Iterable[tuple[Raw, str]]) -> None:
        """Write rows to a CSV file of the same encoding and delimiter, each with its reason."""
        # A reason may hold what the encoding of the file has not.
        with path.open("w", encoding=self.encoding, errors="replace", newline="") as file:
            writer = csv.writer(file, delimiter=self.delimiter)
            writer.writerow([*without_reason(self.headings), REASON_HEADING])
            writer.writerows([*raw, reason] for raw, reason in rejects)


class JsonLinesFile(_TextFile):
    """One JSON object per line; the members of an object inside have names such as `run.key`."""

    def __init__(self, path: Path, encoding: str, size: int, headings: Sequence[str]) -> None:
        super().__init__(path, encoding, size, "JSON Lines")
        self._headings = headings

    def rows(self) -> Iterator[Row]:
        """The objects of the lines that are not blank. Raises FileRefused."""
        number = 0
        missing = set(self._headings)
        with self._open() as file:
            try:
                while line := file.readline(ROW_CHARS_MAX + 1):
                    number += 1
                    if len(line) > ROW_CHARS_MAX:
                        self._refuse(number, f"has more than {ROW_CHARS_MAX:,} characters")
                    if line.strip():
                        row = _json_row(number, line.strip())
                        missing.difference_update(row.cells)
                        yield row
            except UnicodeError as error:
                self._undecoded(number + 1, error)
        if missing:
            self.description += f", no line has {', '.join(sorted(missing))}"

    def write_rejects(self, path: Path, rejects: Iterable[tuple[Raw, str]]) -> None:
        """Write objects to a file of JSON Lines, each with its reason."""
        is_ascii = not self.encoding.startswith("utf")
        # Half of a surrogate pair becomes its escape in JSON.
        with path.open("w", encoding=self.encoding, errors="backslashreplace") as file:
            file.writelines(
                json.dumps({**raw, REASON_HEADING: reason}, ensure_ascii=is_ascii) + "\n" for raw, reason in rejects
            )


class _UnclearObject(ValueError):
    """A JSON object that may mean two things; the text says why."""


def _json_row(number: int, line: str) -> Row:
    try:
        value = json.loads(
            line,
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object_of,
        )
        if not isinstance(value, dict):
            return Row(number, {}, {"line": line}, "the line is no JSON object")
        value.pop(REASON_HEADING, None)
        cells = _object_of(list(_flat(value, "", NESTED_OBJECTS_MAX)))
        return Row(number, cells, json.loads(json.dumps(value, default=_plain_number)))
    except _UnclearObject as unclear:
        return Row(number, {}, {"line": line}, str(unclear))
    except (ValueError, RecursionError):
        return Row(number, {}, {"line": line}, "the line is no JSON")


def _object_of(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise _UnclearObject("the line has two members of the same name")
    return found


def _refuse_constant(name: str) -> Never:
    raise ValueError(name)  # NaN and Infinity, which are no JSON


def _plain_number(value: object) -> object:
    """A number in a form that JSON can say, and none of its digits lost: as text where it is no number of a float."""
    assert isinstance(value, Decimal)
    text = number_text(value)
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(value) if Decimal(str(float(value))) == value else text


def _flat(value: dict[str, Any], prefix: str, objects_max: int) -> Iterator[tuple[str, Cell]]:
    for name, member in value.items():
        if isinstance(member, dict) and objects_max:
            yield from _flat(member, f"{prefix}{name}.", objects_max - 1)
        elif isinstance(member, bool):
            yield heading_text(f"{prefix}{name}"), str(member).lower()
        else:
            yield heading_text(f"{prefix}{name}"), member


def _csv_reader(file: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The records of a CSV file. A quotation mark may have spaces before it, unless they divide the cells."""
    return csv.reader(file, delimiter=delimiter, skipinitialspace=delimiter != " ")


def _delimiter_of(sample: str) -> str:
    """The delimiter that divides most of the first rows into the same number of cells, and into many."""

    def score(delimiter: str) -> int:
        records = islice(_csv_reader(io.StringIO(sample, newline=""), delimiter), HEADER_SEARCH_ROWS_MAX)
        widths = [len(record) for record in records]
        return max((widths.count(width) * (width - 1) for width in widths), default=0)

    csv.field_size_limit(CELL_CHARS_MAX)
    return max(DELIMITERS, key=score)
