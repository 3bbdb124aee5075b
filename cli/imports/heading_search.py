"""Which of the first rows of a table has its headings, where no mapping names them yet."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.console import FileRefused
from cli.imports.records import Cell, is_given, plain_text
from cli.imports.tables import HEADER_SEARCH_ROWS_MAX, Headings, joined_headings
from cli.imports.vocabulary import columns_of_fields, is_run_key

KNOWN_SURE: Final = 2
"""A row with so many words that are headings of a field has the headings."""

KNOWN_WITH_NUMBERS: Final = 3
"""A row that has also a number among its cells needs so many."""

HEADING_CHARS_MAX: Final = 100
"""A longer text is a sentence."""

CANDIDATES_NAMED_MAX: Final = 5
ROWS_COMPARED_MAX: Final = 200
"""Rows below a candidate that say which columns the table has."""

NumberedRecordList = Sequence[tuple[int, Sequence[Cell]]]


@dataclass(frozen=True, slots=True)
class FoundHeadings:
    """The headings, the rows above them, and those below."""

    headings: Headings
    above: NumberedRecordList
    below: NumberedRecordList


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A row that may have the headings, because all that it says are words."""

    place: int
    number: int
    texts: list[str]
    known: int
    """How many of its words are headings of a field."""

    is_whole: bool
    """Whether each column that the rows below fill has a heading, and no two have the same."""

    @property
    def is_comment(self) -> bool:
        return self.texts[0].startswith(("#", "//")) and self.texts[0] != "#"

    @property
    def is_known(self) -> bool:
        return self.known >= KNOWN_SURE


def search_headings(records: NumberedRecordList, path: Path) -> FoundHeadings:
    """The headings of a table, given its first rows. Raises FileRefused where it is not clear which they are."""
    if not any(is_given(cell) for _, record in records for cell in record):
        raise FileRefused(f"{path}: has no rows")
    candidates = list(_candidates(records))
    candidates = [each for each in candidates if not each.is_comment] or candidates
    best = _best(candidates, path)
    start, end = _rows_of_headings(best, candidates)
    names = joined_headings([record for _, record in records[start:end]])
    headings = Headings(names, records[start][0], records[end - 1][0])
    if not any(is_given(cell) for _, record in records[end:] for cell in record):
        raise FileRefused(f"{path}: has headings in {headings.place}, and no rows below them")
    return FoundHeadings(headings, records[:start], records[end:])


def _candidates(records: NumberedRecordList) -> Iterator[_Candidate]:
    for place, (number, record) in enumerate(records[:HEADER_SEARCH_ROWS_MAX]):
        cells = [cell for cell in record if is_given(cell)]
        words = sum(map(_is_heading, cells))
        if words < 2:
            continue
        names = joined_headings([record])
        known = len(columns_of_fields(names)) + any(map(is_run_key, names))
        if words == len(cells) or (known >= KNOWN_WITH_NUMBERS and words * 4 >= len(cells) * 3):
            texts = [plain_text(cell) for cell in cells]
            used = _used_columns([below for _, below in records[place + 1 :][:ROWS_COMPARED_MAX]])
            is_whole = len(set(texts)) == len(texts) and all(
                column < len(record) and is_given(record[column]) for column in used
            )
            yield _Candidate(place, number, texts, known, is_whole)


def _is_heading(cell: Cell) -> bool:
    """Whether a cell may be a heading: a word or some, and no number, date or id."""
    text = cell.strip() if isinstance(cell, str) else ""
    letters = len(re.findall(r"[^\W\d_]", text))
    return text in {"#", "№", "€", "$", "£"} or (
        letters > 1 and letters > len(re.findall(r"\d", text)) and len(text) <= HEADING_CHARS_MAX
    )


def _used_columns(records: Sequence[Sequence[Cell]]) -> list[int]:
    """The columns that half of the rows fill; a row with one cell is no row of the table."""
    rows = [record for record in records if sum(map(is_given, record)) > 1]
    width = max(map(len, rows), default=0)
    counts = [sum(column < len(row) and is_given(row[column]) for row in rows) for column in range(width)]
    return [column for column, count in enumerate(counts) if count * 2 >= len(rows)]


def _best(candidates: Sequence[_Candidate], path: Path) -> _Candidate:
    """The row whose words are known best. Raises FileRefused where there is none, or another is as good."""
    if not candidates:
        raise FileRefused(
            f"{path}: none of its first {HEADER_SEARCH_ROWS_MAX} rows has headings; put a row above the others "
            "that has a name for each column"
        )
    best = max(candidates, key=lambda each: (each.known, each.is_whole))
    if best.is_known:
        rivals = [
            each
            for each in candidates
            if abs(each.place - best.place) > 1
            and (
                (each.known, each.is_whole) == (best.known, best.is_whole)
                or (each.is_known and each.is_whole and not best.is_whole)
            )
        ]
    else:
        whole = [each for each in candidates if each.is_whole]
        if not whole:
            raise FileRefused(
                f"{path}: row {best.number} may have the headings, but columns of the rows below it have none; give "
                "each column a name of its own"
            )
        best, *rivals = whole
    rivals = [each for each in rivals if each.texts != best.texts]  # headings are printed again on each page
    if rivals:
        numbers = [str(each.number) for each in (best, *rivals)][:CANDIDATES_NAMED_MAX]
        raise FileRefused(
            f"{path}: it is not clear which row has the headings: {' or '.join(numbers)}; take away the rows above "
            "them, or give the columns names such as claim, date, amount"
        )
    return best


def _rows_of_headings(best: _Candidate, candidates: Sequence[_Candidate]) -> tuple[int, int]:
    """Where the headings begin and end: they may take two rows.

    A row below belongs to them if its words are known: else it may be a row of the table. One above belongs to them
    if they are the same or missing without it, as under cells that were merged.
    """
    places = {each.place: each for each in candidates}
    below, above = places.get(best.place + 1), places.get(best.place - 1)
    if below is not None and below.is_known:
        return best.place, best.place + 2
    if above is not None and not best.is_whole:
        return best.place - 1, best.place + 1
    return best.place, best.place + 1
