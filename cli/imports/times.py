"""Times as people write them, and as spreadsheets count them."""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

from cli.imports.mapping import EXCEL, HAS_YEAR, YEAR_MIN, Mapping
from cli.imports.records import Cell, UnreadableCell, plain_text

_DAYS_MAX: Final = 2_958_465
"""The last day of the year 9999."""

_CHARS_MAX: Final = 100

_DIGITS_ONLY: Final = re.compile("(?:%[dmyYHMS])+")


class TimeReader:
    """Reads times by the forms of a mapping. Spreadsheets count the days since `first_day`."""

    def __init__(self, mapping: Mapping, first_day: datetime) -> None:
        self._forms = [form for form in mapping.date_formats if form != EXCEL]
        self._counts_days = EXCEL in mapping.date_formats
        self._year = mapping.year
        self._first_day = first_day
        self._cached = lru_cache(maxsize=10_000)(self._parsed)

    def read(self, cell: Cell) -> datetime | None:
        """The time in a cell, often without an offset; None if it is blank. Raises UnreadableCell."""
        if isinstance(cell, list):
            raise UnreadableCell("is a list, and must be a time")
        if isinstance(cell, datetime):
            time = cell
        elif text := plain_text(cell):
            if len(text) > _CHARS_MAX:
                raise UnreadableCell("is no time")
            time = self._cached(text, isinstance(cell, Decimal))
        else:
            return None
        if time.year < YEAR_MIN:
            raise UnreadableCell(f"is a time of the year {time.year}; is it the right column, and the right form?")
        return time

    def _parsed(self, text: str, is_number: bool) -> datetime:
        for form in self._forms:
            time = time_written_as(text, form, self._year)
            if time is not None:
                return time
        counts_days = self._counts_days or (is_number and not any(map(_DIGITS_ONLY.fullmatch, self._forms)))
        if counts_days and re.fullmatch(r"\d{1,7}([.,]\d+)?", text):
            days = Decimal(text.replace(",", "."))
            if days <= _DAYS_MAX:
                return self._first_day + timedelta(seconds=round(float(days) * 86_400))
        try:
            if not is_number:
                return datetime.fromisoformat(text)
        except ValueError:
            pass
        forms = [*self._forms, *(["a count of days"] if counts_days else []), *([] if is_number else ["ISO 8601"])]
        raise UnreadableCell(f"is no time in one of the forms {', '.join(forms)}")


def time_written_as(text: str, form: str, year: int | None) -> datetime | None:
    """The time that a text is in this form of strptime, of this year where the form has none; None if it is no time.

    A form of digits only takes exactly so many of them: a zero before them may be missing, which a spreadsheet takes.
    """
    if _DIGITS_ONLY.fullmatch(form):
        digits = sum(4 if directive == "Y" else 2 for directive in form if directive != "%")
        if not text.startswith("0") and form.startswith(("%d", "%m")) and len(text) == digits - 1:
            text = f"0{text}"
        if len(text) != digits or not text.isascii() or not text.isdigit():
            return None
    try:
        if HAS_YEAR.search(form):
            return datetime.strptime(text, form)  # noqa: DTZ007 -- it gets the time zone of the mapping
        return datetime.strptime(f"{year:04} {text}", f"%Y {form}") if year is not None else None  # noqa: DTZ007
    except ValueError:
        return None
