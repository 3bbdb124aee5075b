"""A mapping made from the headings of a file and its first rows: a start for a person to go on from.

What is not clear is left open, so that the mapping is refused until a person has decided it.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from cli.console import FileRefused
from cli.imports.amounts import AmountReader
from cli.imports.heading_search import search_headings
from cli.imports.mapping import EXCEL, HAS_YEAR, SIDES, YEAR_MIN, FieldName, Mapping
from cli.imports.recognition import open_record_file
from cli.imports.record_files import JsonLinesFile
from cli.imports.records import EXCEL_FIRST_DAY, REASON_HEADING, Cell, is_given, plain_text
from cli.imports.tables import HEADER_SEARCH_ROWS_MAX
from cli.imports.times import time_written_as
from cli.imports.vocabulary import columns_of_fields, is_run_key, meaning_of
from worker.logs import escape_unprintable

SAMPLE_ROWS: Final = 2_000
SAMPLE_CHARS_MAX: Final = 16 * 1024 * 1024
"""What is looked at of a file: so many rows, or so much text."""

LISTED_MAX: Final = 20
"""Words of a column, and cells above the headings."""

HEADINGS_LISTED_MAX: Final = 500

TAKE_ONE: Final = "Take one of these lines in:"
LINE_CHARS_MAX: Final = 110

Item = TypeVar("Item")

_CLAIM_SEPARATORS: Final = (";", "|", "\n")
_LEAP_YEAR: Final = 2024
_MEANT: Final[dict[FieldName, str]] = {
    "status": "completed, partial or failed",
    "outcome": "exported, skipped or ignored",
    "sign": "plus or minus",
}
"""What the words of these columns may mean."""

_FIELDS_OF_RUN: Final[tuple[FieldName, ...]] = (
    "triggeredBy", "format", "targetSystem", "scope", "externalAckId", "status", "periodStart", "periodEnd",
)  # fmt: skip
_DATE_FORMATS: Final = (
    "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S",
    "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M %p", "%d-%m-%Y",
    "%Y%m%d", "%d.%m.%y", "%d.%m.%y %H:%M", "%d%m%Y", "%d%m%y", "%d%m", "%Y/%m/%d", "%m/%d/%y", "%d/%m/%y",
    "%d/%m/%y %H:%M", "%d-%m-%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y",
)  # fmt: skip
_SIGNS: Final = (
    (".", ""), (",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"), (",", "'"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A mapping in TOML, and what a person must know of it, in lines."""

    toml: str
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Sample:
    """The first rows of a file, by its headings."""

    headings: list[str]
    rows: list[dict[str, Cell]]
    settings: list[str]
    """Lines of the mapping that say how the file is read."""

    notes: list[str]

    def column(self, heading: str | None) -> list[Cell]:
        """The cells of a column that are not blank."""
        return [] if heading is None else [row[heading] for row in self.rows if is_given(row.get(heading))]

    def texts(self, heading: str | None) -> list[str]:
        """The texts of a column, each once."""
        return list(dict.fromkeys(plain_text(cell) for cell in self.column(heading) if isinstance(cell, str)))


def suggested_mapping(path: Path) -> Suggestion:
    """A mapping for a file. Raises FileRefused where the headings are not clear."""
    sample = _sample(path)
    writer = _MappingWriter(sample)
    lines = list(writer.lines())
    notes = [*sample.notes, *([f"Left open: {', '.join(writer.open)}."] if writer.open else [])]
    comments = [f"A suggestion for {_quoted(path.name)}. Check each line.", *notes]
    return Suggestion("\n".join([*(f"# {comment}" for comment in comments), "", *lines]) + "\n", notes)


def _sample(path: Path) -> _Sample:
    mapping = Mapping.model_construct(run_key=[], columns={}, fill_down=[], constants={}, words={}, date_formats=[])
    file = open_record_file(path, mapping)
    if isinstance(file, JsonLinesFile):
        rows = []
        for row in _first(file.rows(), lambda row: row.cells.values(), SAMPLE_ROWS):
            if row.problem is not None:
                raise FileRefused(f"{path}: row {row.number}: {row.problem}")
            rows.append(row.cells)
        headings = list(dict.fromkeys(name for cells in rows for name in cells))
        if not headings:
            raise FileRefused(f"{path}: has no rows")
        return _Sample(headings, rows, [], [])
    first = list(_first(file.records(), lambda record: record[1], HEADER_SEARCH_ROWS_MAX + SAMPLE_ROWS))
    found = search_headings(first, path)
    names = [name for name in found.headings.names if name != REASON_HEADING]
    rows = [dict(zip(found.headings.names, record, strict=False)) for _, record in found.below]
    height = found.headings.last_row - found.headings.first_row + 1
    settings = [f"header_rows = {height}"] if height > 1 else []
    above = [(number, record) for number, record in found.above if any(map(is_given, record))]
    notes = [f"The headings are in {found.headings.place}.{' Rows above them are not read:' if above else ''}"]
    notes += [f"  row {number}: {_listed(filter(None, map(plain_text, record)))}" for number, record in above]
    if file.other_sheets:
        settings.append(f"sheet = {_quoted(file.sheet_title or '')}")
        notes.append(f"Sheets that are not read: {_listed(file.other_sheets)}")
    return _Sample(names, [row for row in rows if any(map(is_given, row.values()))], settings, notes)


def _first(items: Iterable[Item], cells_of: Callable[[Item], Iterable[Cell]], items_max: int) -> Iterator[Item]:
    chars = 0
    for item in islice(items, items_max):
        yield item
        chars += sum(len(plain_text(cell)) for cell in cells_of(item))
        if chars > SAMPLE_CHARS_MAX:
            return


class _MappingWriter:
    """Writes the lines of a mapping."""

    def __init__(self, sample: _Sample) -> None:
        self._sample = sample
        self.open: list[str] = []
        """What a person has to decide before the mapping can be used."""

        filled = [heading for heading in sample.headings if sample.column(heading)]
        self._keys = list(filter(is_run_key, filled))
        self._columns = columns_of_fields([heading for heading in filled if heading not in self._keys])
        self._time = self._first("createdAt") or self._first("finishedAt")
        if "outcome" not in self._columns and self._is_about_claims("status"):
            self._columns["outcome"] = self._columns.pop("status")
        if "amount" in self._columns or not self._columns.keys() >= set(SIDES):
            for side in SIDES:  # beside an amount they may be accounts
                self._columns.pop(side, None)
        if "amount" not in self._columns:
            self._columns.pop("sign", None)
        for name in _FIELDS_OF_RUN:
            if self._is_about_claims(name):
                del self._columns[name]  # the rows of a run have to agree in it

    def _first(self, name: FieldName) -> str | None:
        """The first column that may be that of a field."""
        headings = self._columns.get(name)
        return headings[0] if headings else None

    def lines(self) -> Iterator[str]:
        """All lines; they come to a mapping that is refused as long as something is open."""
        yield from self._key_lines()
        yield from self._sample.settings
        yield from self._time_lines()
        yield from self._sign_lines()
        yield from _separator(self._sample.texts(self._first("claimIds")))
        yield ""
        yield from self._column_lines()
        yield ""
        yield from self._constant_lines()
        for name in _MEANT:
            yield from self._word_lines(name)

    def _key_lines(self) -> Iterator[str]:
        keys = [[key] for key in self._keys] or [*([[self._time]] if self._time else []), []]
        yield "# Rows that have the same values in these columns are one run; without columns the whole file is."
        if len(self._keys) == 1:
            yield f"run_key = {_list(*keys)}"
        else:
            self.open.append("run_key")
            yield f"# {TAKE_ONE}"
            yield from (f"# run_key = {_list(key)}" for key in keys)
        filled = list(dict.fromkeys(filter(None, [*self._keys, self._time, self._first("triggeredBy")])))
        rows = len(self._sample.rows)
        if gaps := [heading for heading in filled if len(self._sample.column(heading)) < rows]:
            yield "# These columns have blank cells. If such a cell means the value above it, take the next line in."
            yield f"# fill_down = {_list(gaps)}"

    def _is_about_claims(self, name: FieldName) -> bool:
        """Whether rows of the same run say different things."""
        column = self._first(name)
        keys = self._keys[:1] or ([self._time] if self._time else [])
        said: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for row in self._sample.rows if column else ():
            said[tuple(plain_text(row.get(key)) for key in keys)].add(plain_text(row.get(column or "")))
        return any(len(words - {""}) > 1 for words in said.values())

    def _time_lines(self) -> Iterator[str]:
        cells = [cell for cell in self._sample.column(self._time) if isinstance(cell, str | Decimal)]
        forms = date_forms(cells)
        if forms.unclear:
            self.open.append("date_formats")
            yield f"# It is not clear how these dates are written. {TAKE_ONE}"
            yield from (f"# date_formats = {_list([form])}" for form in forms.unclear)
        elif forms.forms:
            yield f"date_formats = {_list(forms.forms)}"
        if any(form != EXCEL and not HAS_YEAR.search(form) for form in (*forms.forms, *forms.unclear)):
            self.open.append("year")
            yield f"# year = {_LEAP_YEAR}  # these dates have no year"
        if forms.unread is not None:
            yield f"# No form that is known fits {_quoted(forms.unread)}."
        yield 'time_zone = "UTC"  # or that of the dates, such as "Europe/Berlin"'

    def _sign_lines(self) -> Iterator[str]:
        names: tuple[FieldName, ...] = ("amount", *SIDES)
        texts = [text for name in names for text in self._sample.texts(self._first(name))]
        signs = amount_signs(texts)
        if len(signs) > 1:
            self.open.append("decimal_sign")
            yield "# It is not clear what the signs in the amounts mean. Take one of these pairs in:"
            for pair in signs:
                yield from (f"# {line}" for line in _sign_settings(pair))
        elif not signs and texts:
            yield f"# No signs that are known fit amounts such as {_quoted(texts[0])}."
        elif signs:
            yield from _sign_settings(signs[0])

    def _column_lines(self) -> Iterator[str]:
        yield "[columns]"
        if not self._columns.keys() & {"claimId", "claimIds"}:
            self.open.append("claimId")
            yield '# claimId = "the column that names the claim"'
        if self._time is None:
            self.open.append("createdAt")
            yield '# createdAt = "the column with the time of the export"'
        for name, headings in self._columns.items():
            if len(headings) == 1:
                yield f"{name} = {_quoted(headings[0])}"
            else:
                self.open.append(name)
                yield f"# Several columns may be {name}. {TAKE_ONE}"
                yield from (f"# {name} = {_quoted(heading)}" for heading in headings)
        used = {heading for headings in (*self._columns.values(), self._keys) for heading in headings}
        if unused := [heading for heading in self._sample.headings if heading not in used]:
            yield "# Columns that are not used:"
            yield from _wrapped(unused)

    def _constant_lines(self) -> Iterator[str]:
        yield "[constants]"
        if "orgId" not in self._columns:
            self.open.append("orgId")
            yield '# orgId = "your organisation"'
        for name in ("triggeredBy", "format"):
            if name not in self._columns:
                yield f'{name} = "unknown"'
        if self._columns.keys() & {"amount", "debit"} and "currency" not in self._columns:
            yield '# currency = "EUR"  # of amounts that have none beside them'

    def _word_lines(self, name: FieldName) -> Iterator[str]:
        words = self._sample.texts(self._first(name))
        if not words:
            return
        yield ""
        yield f"[words.{name}]  # {_MEANT[name]}"
        if name == "sign":
            yield "# A debit is plus where the account of the row is one of costs. Of a debt, exchange the two."
        for word in words[:LISTED_MAX]:
            meaning = meaning_of(name, word)
            yield f"{_quoted(word)} = {_quoted(meaning)}" if meaning else f'# {_quoted(word)} = "?"'
        if not all(meaning_of(name, word) for word in words):
            self.open.append(f"words.{name}")


@dataclass(frozen=True, slots=True)
class DateForms:
    """How dates are written: forms that are tried one after the other, or some that mean different days."""

    forms: list[str]
    unclear: list[str]
    unread: str | None
    """A text that none of the known forms fits."""


def date_forms(cells: Sequence[Cell]) -> DateForms:
    """The forms in which these cells are times, those of most cells first. ISO 8601 needs none."""
    left = {plain_text(cell) for cell in cells}
    if all(isinstance(cell, Decimal) for cell in cells) and _fitting(EXCEL, left) == left:
        return DateForms([], [], None)
    left = {text for text in left if not _is_iso(text)}
    forms: list[str] = []
    while left:
        form = max((*_DATE_FORMATS, EXCEL), key=lambda form: len(_fitting(form, left)))
        fitting = sorted(_fitting(form, left))
        if not fitting:
            break
        times = [_time_by(form, text) for text in fitting]
        others = [each for each in (*_DATE_FORMATS, EXCEL) if len(_fitting(each, fitting)) == len(fitting)]
        unclear = [each for each in others if [_time_by(each, text) for text in fitting] != times]
        if unclear:
            return DateForms(forms, [form, *unclear], None)
        forms.append(form)
        left -= set(fitting)
    # One of them would take days of the other for its own.
    mixed = [form for form in forms if _with_day_and_month_exchanged(form) in forms]
    if len(mixed) > 1:
        return DateForms([], mixed, None)
    return DateForms(forms, [], min(left) if left else None)


def _with_day_and_month_exchanged(form: str) -> str:
    return re.sub("%[dm]", lambda match: "%m" if match[0] == "%d" else "%d", form)


def _fitting(form: str, texts: Iterable[str]) -> set[str]:
    return {text for text in texts if _time_by(form, text) is not None}


def _time_by(form: str, text: str) -> datetime | None:
    """The time, if it is one that old records may have."""
    if form == EXCEL:
        time = EXCEL_FIRST_DAY + timedelta(days=int(text)) if re.fullmatch(r"\d{5}", text, re.ASCII) else None
    else:
        time = time_written_as(text, form, _LEAP_YEAR)
    return time if time is not None and YEAR_MIN <= time.year <= datetime.now(UTC).year + 1 else None


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return not text.isdigit()  # 20240131 is ISO 8601, too, but may be another form


def amount_signs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The decimal and thousands signs that most of these amounts fit; several if they make different amounts."""
    read: list[tuple[tuple[str, str], list[str]]] = []
    for signs in _SIGNS:
        amounts = [amount.text if (amount := AmountReader(*signs).read(text)) else "" for text in texts]
        read.append((signs, amounts))
    most = max(sum(map(bool, amounts)) for _, amounts in read)
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for signs, amounts in read:
        if most and sum(map(bool, amounts)) == most:
            found.setdefault(tuple(amounts), signs)
    return list(found.values())


def _sign_settings(signs: tuple[str, str]) -> list[str]:
    decimal_sign, thousands_sign = signs
    return [
        f"decimal_sign = {_quoted(decimal_sign)}",
        *([f"thousands_sign = {_quoted(thousands_sign)}"] if thousands_sign else []),
    ]


def _separator(texts: Sequence[str]) -> Iterator[str]:
    """What stands between claims, where it is no comma."""
    text = "".join(texts)
    found = max(_CLAIM_SEPARATORS, key=text.count)
    if text.count(found) > text.count(","):
        yield f"claim_separator = {_quoted(found)}"


def _wrapped(texts: Sequence[str]) -> Iterator[str]:
    """Comments that list texts, of very many the first."""
    line = "#  "
    for text in texts[:HEADINGS_LISTED_MAX]:
        if len(line) + len(text) > LINE_CHARS_MAX and line.strip("# "):
            yield line
            line = "#  "
        line += f" {_quoted(text)}"
    yield line
    if len(texts) > HEADINGS_LISTED_MAX:
        yield f"#   and {len(texts) - HEADINGS_LISTED_MAX:,} more"


def _listed(texts: Iterable[str]) -> str:
    """Texts on one line, cut where it would be too long."""
    line = ", ".join(_quoted(text) for text in islice(texts, LISTED_MAX))
    return line if len(line) <= LINE_CHARS_MAX else f"{line[:LINE_CHARS_MAX]}..."


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str) -> str:
    """A text as TOML has it, on one line, with escapes for all that is not plainly visible."""

    def escaped(char: str) -> str:
        if escape_unprintable(char) == char and char not in '\\"':
            return char
        return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"

    return f'"{"".join(map(escaped, text))}"'
