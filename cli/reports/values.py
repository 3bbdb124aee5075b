"""How a report writes a value: the same text in each of its formats."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from schema.fields import amount_text

Value = str | int | bool | Decimal | datetime | date | UUID | None

FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")  # noqa: RUF001
"""What a spreadsheet may take for the beginning of a formula. The last one is what marks a text as none."""


def value_text(value: Value) -> str:
    """A value as text: times in UTC by ISO 8601, amounts with a point, nothing for what is not known."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime():
            return f"{value.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
        case Decimal():
            return amount_text(value)
        case _:
            return str(value)


def csv_text(value: Value) -> str:
    """A value in a CSV file that a spreadsheet opens: a text that looks like a formula has an apostrophe before it."""
    text = value_text(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA_STARTS) else text


def json_value(value: Value) -> str | int | bool | None:
    """A value in JSON: amounts are texts there, as in the contract, because many programs read numbers as floats."""
    return value if value is None or isinstance(value, bool | int) else value_text(value)
