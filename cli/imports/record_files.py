"""Files of old records: CSV and JSON Lines, read row by row, and written again with the rows that were refused."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from cli.console import FileRefused
from cli.imports.mapping import Mapping, heading_text

REASON_HEADING: Final = "import_reason"
"""The column that a file of refused rows has beside those of the input. It is left out when the file is read again."""

CELL_CHARS_MAX: Final = 4 * 1024 * 1024
"""A cell with more characters is a quotation mark that was not closed."""

NUMBER_CHARS_MAX: Final = 1_000
"""A number with more digits is written with an exponent: `1e999999999` would fill the memory."""

HEADER_SEARCH_ROWS_MAX: Final = 50
"""The headings must be among the first rows."""

SAMPLE_BYTES: Final = 256 * 1024
DELIMITERS: Final = (";", ",", "\t", "|")
CHUNK_BYTES: Final = 1024 * 1024

Cell: TypeAlias = str | Decimal | datetime | list[Any] | None
"""What a cell holds. Only a workbook and JSON have more than texts."""

Raw: TypeAlias = Any
"""A row as its file has it, in a form that JSON can say, so that it can be written back."""


NumberedRecords: TypeAlias = Iterator[tuple[int, Sequence[Cell]]]

_LINE_END: Final = re.compile(r"\r\n|\r|\n")


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

    description: str
    """What was recognised: the format, the encoding, the delimiter."""

    bytes_total: int
    bytes_read: int
    """How large the file is, and how far it was read."""

    def rows(self) -> Iterator[Row]:
        """The rows below the headings that are not blank. Raises FileRefused."""

    def write_rejects(self, path: Path, rejects: Iterable[tuple[Raw, str]]) -> None:
        """Write rows to a file of the same format, each with its reason."""


@dataclass
class _Counted(io.RawIOBase):
    """A file that says how far it was read."""

    path: Path
    report: Callable[[int], None]
    _file: io.FileIO = field(init=False)
    _bytes_read: int = 0

    def __post_init__(self) -> None:
        self._file = io.FileIO(self.path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._bytes_read += count
        self.report(self._bytes_read)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _TextFile:
    """What CSV and JSON Lines share."""

    def __init__(self, path: Path, encoding: str, size: int, kind: str) -> None:
        self.path = path
        self.encoding = encoding
        self.bytes_total = size
        self.bytes_read = 0
        self.description = f"{kind} in {encoding.removesuffix('-sig').upper()}"

    def _open(self) -> io.TextIOWrapper:
        buffered = io.BufferedReader(_Counted(self.path, self._note))
        return io.TextIOWrapper(buffered, encoding=self.encoding, newline="")

    def _note(self, bytes_read: int) -> None:
        self.bytes_read = bytes_read


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

    def rows(self) -> Iterator[Row]:
        """The rows below the headings that are not blank. Raises FileRefused."""
        csv.field_size_limit(CELL_CHARS_MAX)
        with self._open() as file:
            records = enumerate(_csv_reader(file, self.delimiter), start=1)
            try:
                self.headings, below = find_headings(iter(records), self._mapping, self.path)
                yield from table_rows(self._without_rows_in_cells(below), self.headings, self._mapping)
            except csv.Error as error:
                raise FileRefused(f"{self.path}: cannot be read as CSV: {error}") from error
            except UnicodeError as error:
                raise FileRefused(f"{self.path}: is not in {self.encoding}: {error}") from error

    def _without_rows_in_cells(self, records: NumberedRecords) -> NumberedRecords:
        """The records. Raises FileRefused where a quotation mark has taken in the rows below: they would be missing."""
        columns = self._mapping.columns
        times = [columns[name] for name in ("createdAt", "finishedAt") if name in columns]
        claims = [columns[name] for name in ("claimId", "claimIds") if name in columns]
        places = [self.headings.index(heading) for heading in (*self._mapping.run_key, *claims, *times)]
        for number, record in records:
            for cell in record if times else ():  # a suggestion has no mapping yet
                lines = _LINE_END.split(cell)[1:] if isinstance(cell, str) else []
                if any(self._is_row(line, places, self.headings.index(times[0])) for line in lines):
                    raise FileRefused(
                        f"{self.path}: row {number}: a cell has whole rows in it; is a quotation mark not closed?"
                    )
            yield number, record

    def _is_row(self, line: str, places: Sequence[int], place_of_time: int) -> bool:
        """Whether a line may be a row: it has a cell for each heading, and all those that a row needs."""
        cells = next(_csv_reader([line], self.delimiter), [])
        is_whole = len(cells) == len(self.headings) and all(cells[place].strip() for place in places)
        return is_whole and re.search(r"\d", cells[place_of_time]) is not None

    def write_rejects(self, path: Path, rejects: Iterable[tuple[Raw, str]]) -> None:
        """Write rows to a CSV file of the same encoding and delimiter, each with its reason."""
        with path.open("w", encoding=self.encoding, newline="") as file:
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
        with self._open() as file:
            try:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield self._row(number, line.strip())
            except UnicodeError as error:
                raise FileRefused(f"{self.path}: is not in {self.encoding}: {error}") from error

    def _row(self, number: int, line: str) -> Row:
        try:
            value = json.loads(line, parse_float=Decimal, parse_int=Decimal)
        except (ValueError, RecursionError):
            return Row(number, {}, {"line": line}, "the line is no JSON")
        if not isinstance(value, dict):
            return Row(number, {}, {"line": line}, "the line is no JSON object")
        value.pop(REASON_HEADING, None)
        return Row(number, dict(_flat(value, "")), json.loads(json.dumps(value, default=_plain_number)))

    def write_rejects(self, path: Path, rejects: Iterable[tuple[Raw, str]]) -> None:
        """Write objects to a file of JSON Lines, each with its reason."""
        with path.open("w", encoding=self.encoding) as file:
            file.writelines(
                json.dumps({**raw, REASON_HEADING: reason}, ensure_ascii=False) + "\n" for raw, reason in rejects
            )


def _plain_number(value: object) -> object:
    """A number in a form that JSON can say, and none of its digits lost: as text where it is no number of a float."""
    assert isinstance(value, Decimal)
    text = number_text(value)
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(value) if Decimal(str(float(value))) == value else text


def _flat(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, Cell]]:
    for name, member in value.items():
        if isinstance(member, dict) and prefix.count(".") < 8:
            yield from _flat(member, f"{prefix}{name}.")
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
        records = islice(_csv_reader(io.StringIO(sample), delimiter), HEADER_SEARCH_ROWS_MAX)
        widths = [len(record) for record in records]
        return max((widths.count(width) * (width - 1) for width in widths), default=0)

    csv.field_size_limit(CELL_CHARS_MAX)
    return max(DELIMITERS, key=score)


def find_headings(records: NumberedRecords, mapping: Mapping, path: Path) -> tuple[list[str], NumberedRecords]:
    """The headings, and the records below them: the first rows that have all that the mapping names.

    A mapping that names none has the row with the most texts. Raises FileRefused.
    """
    wanted = set(mapping.headings)
    first = list(islice(records, HEADER_SEARCH_ROWS_MAX))
    best: tuple[int, list[str]] = (0, [])
    # A file of refused rows has its headings joined in one row.
    heights = sorted({1, mapping.header_rows}, reverse=True)
    places = [(end, height) for end in range(1, len(first) + 1) for height in heights if height <= end]
    if not wanted:
        places = [(end, 1) for end in range(*_place_of_most_texts(first))]
    for end, height in places:
        headings = joined_headings([record for _, record in first[end - height : end]])
        found = len(wanted & set(headings))
        if found == len(wanted):
            return headings, chain(first[end:], records)
        best = max(best, (found, headings), key=lambda each: each[0])
    missing = ", ".join(sorted(wanted - set(best[1])))
    raise FileRefused(f"{path}: has no column {missing}; its columns are: {', '.join(best[1]) or 'unknown'}")


def _place_of_most_texts(first: Sequence[tuple[int, Sequence[Cell]]]) -> tuple[int, int]:
    """The end of the first row that has as many texts as any."""
    counts = [sum(map(_is_text, record)) for _, record in first]
    end = counts.index(max(counts)) + 1 if counts else 0
    return end, end + 1


def _is_text(cell: Cell) -> bool:
    return isinstance(cell, str) and re.search(r"[^\W\d]", cell) is not None


def joined_headings(records: Sequence[Sequence[Cell]]) -> list[str]:
    """The headings of columns. In rows above each other a blank one belongs to the one before it: it was merged.

    A heading that is there before gets a number: `Amount (2)`.
    """
    width = max(map(len, records), default=0)
    parts: list[list[str]] = [[] for _ in range(width)]
    for level, record in enumerate(records):
        above = ""
        for place in range(width):
            text = heading_text(plain_text(record[place])) if place < len(record) else ""
            if not text and level < len(records) - 1:
                text = above
            above = text
            if text and text not in parts[place][-1:]:
                parts[place].append(text)
    headings: list[str] = []
    counts: dict[str, int] = {}
    for each in parts:
        heading = " / ".join(each) or f"column {len(headings) + 1}"
        counts[heading] = counts.get(heading, 0) + 1
        headings.append(f"{heading} ({counts[heading]})" if counts[heading] > 1 else heading)
    return headings


def table_rows(records: NumberedRecords, headings: Sequence[str], mapping: Mapping) -> Iterator[Row]:
    """Rows of a table that are not blank, with what is filled down, and without the reason of the last time."""
    above: dict[str, Cell] = {}
    kept = [(place, heading) for place, heading in enumerate(headings) if heading != REASON_HEADING]
    for number, record in records:
        if not any(map(_is_given, record)):
            continue
        cells = {heading: record[place] if place < len(record) else "" for place, heading in kept}
        for heading in mapping.fill_down:
            if _is_given(cells[heading]):
                above[heading] = cells[heading]
            else:
                cells[heading] = above.get(heading, "")
        is_longer = any(map(_is_given, record[len(headings) :]))
        yield Row(number, cells, list(cells.values()), "has more cells than there are headings" if is_longer else None)


def without_reason(headings: Iterable[str]) -> list[str]:
    """The headings of what the file says itself."""
    return [heading for heading in headings if heading != REASON_HEADING]


def _is_given(cell: Cell) -> bool:
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
        case _:
            return json.dumps(cell, default=str)
