"""The types that fields on the wire are made of, and the model they stand in."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    StringConstraints,
)
from pydantic.alias_generators import to_camel

from . import limits

# \p{Cc} are the control characters (PostgreSQL cannot store NUL, a log should not hold the others).
NAME_PATTERN = r"^[^\p{Cc}]*[^\p{Cc}\s][^\p{Cc}]*$"
PROSE_PATTERN = r"^(?:[^\p{Cc}]|[\t\r\n])*[^\p{Cc}\s](?:[^\p{Cc}]|[\t\r\n])*$"
NO_NUL_PATTERN = r"^[^\x00]*$"

# RFC 3339 section 5.6, with the offset that it requires.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _is_rfc3339_time(value: Any) -> Any:
    if isinstance(value, datetime) or (isinstance(value, str) and _TIME.fullmatch(value)):
        return value
    raise ValueError("must be an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z")


def _is_rfc3339_date(value: Any) -> Any:
    if isinstance(value, date) or (isinstance(value, str) and _DATE.fullmatch(value)):
        return value
    raise ValueError("must be a date such as 2026-01-31")


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("must have an offset")
    if not limits.TIME_MIN <= value <= limits.TIME_MAX:
        raise ValueError(f"must be between {limits.TIME_MIN:%Y-%m-%d} and {limits.TIME_MAX:%Y-%m-%d}")
    return value.astimezone(UTC)


Name = Annotated[str, StringConstraints(min_length=1, max_length=limits.TEXT_CHARS_MAX, pattern=NAME_PATTERN)]
"""An identifier or a name: 1..200 characters, not blank, no control characters."""

Prose = Annotated[str, StringConstraints(min_length=1, max_length=limits.REASON_CHARS_MAX, pattern=PROSE_PATTERN)]
"""What a person wrote: 1..2,000 characters, not blank, tabs and line ends but no other control characters."""

ErrorDetail = Annotated[str, StringConstraints(pattern=NO_NUL_PATTERN)]
"""What an exporter says of its failure: any length that fits a body, anything but NUL."""

# Strict(False): behind a Python validator pydantic no longer knows that the text came from JSON.
Time = Annotated[datetime, Strict(False), BeforeValidator(_is_rfc3339_time), AfterValidator(_in_utc)]
"""An RFC 3339 time with an offset; held in UTC."""

Date = Annotated[date, Strict(False), BeforeValidator(_is_rfc3339_date)]
"""A calendar date without a time."""

Count = Annotated[int, Field(ge=0, le=limits.INT64_MAX)]
"""A whole number that fits PostgreSQL's bigint."""


class WireModel(BaseModel):
    """A JSON object of the contract: camelCase on the wire, snake_case in Python, strict, immutable.

    Strict means that a number is never taken for a string, nor a string for a number. Unknown fields are
    ignored.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        strict=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    _payload: str = PrivateAttr(default="")

    @property
    def payload(self) -> str:
        """The JSON text this was decoded from, unknown fields and all; empty where Python built it."""
        return self._payload

    def with_payload(self, payload: str) -> Self:
        """Remember the JSON text this came from, for the event log. Returns itself."""
        self._payload = payload
        return self


class Override(WireModel):
    """A deliberate re-export: why, and who allowed it."""

    reason: Prose
    approved_by: Name


class SkippedClaim(WireModel):
    """A claim that a run left out, and why."""

    claim_id: Name
    reason: Prose


class RunError(WireModel):
    """Why a run failed, in the exporter's words."""

    code: Name
    detail: ErrorDetail


class Artifact(WireModel):
    """The file that a run produced: where it lies, its checksum and its size in bytes."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=limits.ARTIFACT_KEY_CHARS_MAX, pattern=NAME_PATTERN)]
    sha256: Name
    size_bytes: Count


EventClaims = Annotated[list[Name], Field(max_length=limits.EVENT_CLAIMS_MAX)]
EventSkippedClaims = Annotated[list[SkippedClaim], Field(max_length=limits.EVENT_CLAIMS_MAX)]
