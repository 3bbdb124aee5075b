"""Times and ages: how the command prints them, and how an operator types an age."""

import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Final

import typer

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_AGE: Final = re.compile(r"(?=\d)(?:(\d{1,9})d)? ?(?:(\d{1,9})h)? ?(?:(\d{1,9})m)? ?(?:(\d{1,9})s)?", re.ASCII)

AGE_DAYS_MAX: Final = 36_500
AGE_S_MAX: Final = AGE_DAYS_MAX * 86_400

YEAR_MIN: Final = 1900
YEAR_MAX: Final = 9998

UNKNOWN: Final = "unknown"


def time_text(time: datetime | None) -> str:
    """A time in UTC to the second, such as `2026-01-31 09:30:00`."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if time else UNKNOWN


def age_text(time: datetime | None, now: datetime) -> str:
    """How long ago a time is, in its two largest units, such as `3d 4h`; `in 3d 4h` if it is in the future."""
    if time is None:
        return UNKNOWN
    return f"in {_span_text(time - now)}" if time > now else _span_text(now - time)


def parse_age(text: str) -> timedelta:
    """A span of time, such as `90s`, `2h` or `3d 4h`. Raises ValueError if it is not one, zero, or above AGE_S_MAX."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ValueError("not an age")
    total_s = sum(int(match[place] or 0) * unit_s for place, (_, unit_s) in enumerate(_UNITS, start=1))
    if not 0 < total_s <= AGE_S_MAX:
        raise ValueError("not an age in bounds")
    return timedelta(seconds=total_s)


def age_option(text: str) -> timedelta:
    """The age in an option of a command. Raises BadParameter."""
    try:
        return parse_age(text)
    except ValueError:
        raise typer.BadParameter(f"must be an age such as 90s, 15m, 2h or 3d, at most {AGE_DAYS_MAX}d") from None


def day_option(text: str) -> date:
    """The day in an option of a command. Raises BadParameter."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be a day such as 2026-01-31") from None
    if not YEAR_MIN <= day.year <= YEAR_MAX:
        raise typer.BadParameter(f"must be in the years {YEAR_MIN} to {YEAR_MAX}")
    return day


def _span_text(span: timedelta) -> str:
    total_s = int(span.total_seconds())
    for (unit, unit_s), (smaller_unit, smaller_unit_s) in pairwise(_UNITS):
        if total_s >= unit_s:
            return f"{total_s // unit_s}{unit} {total_s % unit_s // smaller_unit_s}{smaller_unit}"
    return f"{total_s}s"
