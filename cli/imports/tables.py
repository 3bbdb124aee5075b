"""Tables: the headings that a mapping names, found among the first rows of a file, and the rows below them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from cli.console import FileRefused
from cli.imports.mapping import Mapping, heading_text
from cli.imports.records import REASON_HEADING, Cell, NumberedRecords, Row, is_given, plain_text
from schema.fields import counted

HEADER_SEARCH_ROWS_MAX: Final = 50
"""The headings must be among the first rows."""

COLUMNS_MAX: Final = 16_384
"""What spreadsheet programs have."""

NAMED_HEADINGS_MAX: Final = 40
"""An error names so many of the headings of a file."""


@dataclass(frozen=True, slots=True)
class Headings:
    """The names of the columns, and the rows that they stand in."""

    names: list[str]
    first_row: int
    last_row: int

    @property
    def place(self) -> str:
        """The rows, in words."""
        return (
            f"row {self.first_row}" if self.first_row == self.last_row else f"rows {self.first_row} to {self.last_row}"
        )


def find_headings(records: NumberedRecords, mapping: Mapping, path: Path) -> tuple[Headings, NumberedRecords]:
    """The headings, and the records below them: the first rows that have all that the mapping names.

    Raises FileRefused.
    """
    wanted = set(mapping.headings)
    first = list(islice(records, HEADER_SEARCH_ROWS_MAX))
    if not any(map(is_given, chain.from_iterable(record for _, record in first))):
        raise FileRefused(
            f"{path}: has no rows"
            if not first
            else f"{path}: its first {counted(len(first), 'row is', 'rows are')} blank"
        )
    best: list[str] = []
    # A file of refused rows has its headings joined in one row.
    heights = sorted({1, mapping.header_rows}, reverse=True)
    for end, height in [(end, height) for end in range(1, len(first) + 1) for height in heights if height <= end]:
        block = first[end - height : end]
        names = joined_headings([record for _, record in block])
        if wanted <= set(names):
            return Headings(names, block[0][0], block[-1][0]), chain(first[end:], records)
        best = max(best, names, key=lambda each: len(wanted & set(each)))
    raise FileRefused(f"{path}: {_missing(wanted, best)}")


def _missing(wanted: Iterable[str], names: Sequence[str]) -> str:
    """What a file lacks, given the names in the row that has the most of what is wanted."""
    missing = sorted(set(wanted) - set(names))
    for name in missing:
        if (first := numbered(name, 1)) in names:
            return f"has several columns {name}; name the one that is meant in the mapping, such as {first}"
    return f"has no column {', '.join(missing)}; its columns are: {names_text(names)}"


def names_text(names: Sequence[str]) -> str:
    """Names of columns, for a person; of very many the first."""
    more = f" and {len(names) - NAMED_HEADINGS_MAX:,} more" if len(names) > NAMED_HEADINGS_MAX else ""
    return (", ".join(names[:NAMED_HEADINGS_MAX]) or "unknown") + more


def joined_headings(records: Sequence[Sequence[Cell]]) -> list[str]:
    """The headings of columns. In rows above each other a blank one belongs to the one before it: it was merged.

    Headings that are the same get numbers: `Amount (1)` and `Amount (2)`. One that is blank is `column 3`.
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
    return _distinct([" / ".join(each) for each in parts])


def _distinct(texts: Sequence[str]) -> list[str]:
    """Names that differ from each other, for headings that may be blank or the same."""
    times = Counter(texts)
    taken = {text for text, number in times.items() if text and number == 1}
    numbers: dict[str, int] = dict.fromkeys(times, 0)
    names: list[str] = []
    for place, text in enumerate(texts, start=1):
        name = text or f"column {place}"
        while (not text or times[text] > 1) and (name in taken or name == text):
            numbers[text] += 1
            name = numbered(text or f"column {place}", numbers[text])
        taken.add(name)
        names.append(name)
    return names


def numbered(heading: str, number: int) -> str:
    """The name of a column whose heading other columns have as well."""
    return f"{heading} ({number})"


def table_rows(records: NumberedRecords, headings: Sequence[str], mapping: Mapping) -> Iterator[Row]:
    """Rows of a table that are not blank, with what is filled down, and without the reason of the last time."""
    above: dict[str, Cell] = {}
    kept = [(place, heading) for place, heading in enumerate(headings) if heading != REASON_HEADING]
    for number, record in records:
        if not any(map(is_given, record)):
            continue
        cells = {heading: record[place] if place < len(record) else "" for place, heading in kept}
        for heading in mapping.fill_down:
            if is_given(cells[heading]):
                above[heading] = cells[heading]
            else:
                cells[heading] = above.get(heading, "")
        is_longer = any(map(is_given, record[len(headings) :]))
        yield Row(number, cells, list(cells.values()), "has more cells than there are headings" if is_longer else None)
