"""The types of the fields on the wire, and the model that all messages derive from."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from operator import not_
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    PrivateAttr,
    Strict,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema

from . import limits
from .claim_ids import INVISIBLE, all_in_canonical_form, in_canonical_form, spelling_of
from .trace_context import TraceContext

# The patterns stand in the published schemas, so they say the same in every dialect of regular expressions: \s differs,
# and \p is unknown to some.
_CONTROL = r"\x00-\x1f\x7f-\x9f"
"""The control characters. PostgreSQL cannot store NUL, and a log should not hold the others."""

_WHITE_SPACE = r" \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""The white space of Unicode that is no control character."""

_PROSE = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"

NAME_PATTERN = rf"^[^{_CONTROL}]*[^{_CONTROL}{_WHITE_SPACE}][^{_CONTROL}]*$"
CLAIM_ID_PATTERN = rf"^[^{_CONTROL}]*[^{_CONTROL}{_WHITE_SPACE}{INVISIBLE}][^{_CONTROL}]*$"
PROSE_PATTERN = rf"^{_PROSE}*[^{_CONTROL}{_WHITE_SPACE}]{_PROSE}*$"
NO_NUL_PATTERN = r"^[^\x00]*$"

# RFC 3339, section 5.6; the offset is required there, too.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:)(\d\d)((?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d))", re.ASCII)
_OUT_OF_RANGE = f"must be between {limits.TIME_MIN.date()} and {limits.TIME_MAX.date()}"
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_AMOUNT_PATTERN = (
    rf"^[+-]?[0-9]{{1,{limits.AMOUNT_DIGITS_BEFORE_POINT_MAX}}}"
    rf"(?:\.[0-9]{{1,{limits.AMOUNT_DIGITS_AFTER_POINT_MAX}}})?$"
)
_AMOUNT = re.compile(_AMOUNT_PATTERN)
_CURRENCY_PATTERN = r"^[A-Z]{3}$"
_CURRENCY = re.compile(_CURRENCY_PATTERN)


def _is_rfc3339_time(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z")
    return value if match[2] != "60" else _after_leap_second(match[1] + "59" + match[3])


def _after_leap_second(second_before: str) -> datetime:
    """A leap second is held as the second after it: neither Python nor PostgreSQL can tell the two apart.

    RFC 3339, section 5.7: leap seconds are at the end of a month in UTC.
    """
    try:
        time = datetime.fromisoformat(second_before.upper()).astimezone(UTC) + timedelta(seconds=1)
    except OverflowError:
        raise ValueError(_OUT_OF_RANGE) from None
    if (time.day, time.hour, time.minute, time.second) != (1, 0, 0, 0):
        raise ValueError("has a second 60 where no leap second can be: only at 23:59 UTC on the last day of a month")
    return time


def _is_rfc3339_date(value: Any) -> Any:
    if isinstance(value, date) or (isinstance(value, str) and _DATE.fullmatch(value)):
        return value
    raise ValueError("must be a date such as 2026-01-31")


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("must have an offset")
    if not limits.TIME_MIN <= value <= limits.TIME_MAX:
        raise ValueError(_OUT_OF_RANGE)
    return value.astimezone(UTC)


def _is_amount(text: str) -> str:
    if not _AMOUNT.fullmatch(text):
        raise ValueError(
            "must be a decimal number such as 12.50, with at most "
            f"{limits.AMOUNT_DIGITS_BEFORE_POINT_MAX} digits before the point and "
            f"{limits.AMOUNT_DIGITS_AFTER_POINT_MAX} after it"
        )
    return amount_text(Decimal(text))


def amount_text(amount: Decimal) -> str:
    """An amount as replies have it: two digits after the point, or as many more as it needs; zero has no sign."""
    whole, _, fraction = f"{amount:.{limits.AMOUNT_DIGITS_AFTER_POINT_MAX}f}".partition(".")
    text = f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
    return "0.00" if amount == 0 else text


def _is_currency(text: str) -> str:
    if not _CURRENCY.fullmatch(text):
        raise ValueError("must be the three capital letters of a currency in ISO 4217, such as EUR")
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=limits.TEXT_CHARS_MAX, pattern=NAME_PATTERN)]
"""An identifier or a name: 1..200 characters, not blank, no control characters."""

ClaimIdText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=limits.TEXT_CHARS_MAX, pattern=CLAIM_ID_PATTERN),
    PlainSerializer(spelling_of, return_type=str, when_used="json"),
    # Some dialects cannot name the invisible characters above U+FFFF: an id of them alone is refused all the same.
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": limits.TEXT_CHARS_MAX, "pattern": NAME_PATTERN}),
]
"""A claim id as it was sent: 1..200 characters, one of them visible, no control characters. In JSON it has the spelling
of whoever made the model, so that a client that sends a model is answered in it."""

ClaimId = Annotated[ClaimIdText, AfterValidator(in_canonical_form)]
"""A claim id in its canonical form, which has at most 200 characters, too (schema/claim_ids.py)."""

IN_CANONICAL_FORM: Final = AfterValidator(all_in_canonical_form)
"""Makes a list of ClaimIdText a list of claim ids in their canonical form. The last word of a list's annotation."""

Prose = Annotated[str, StringConstraints(min_length=1, max_length=limits.REASON_CHARS_MAX, pattern=PROSE_PATTERN)]
"""What a person wrote: 1..2,000 characters, not blank; tabs and line ends, but no other control characters."""

ErrorDetail = Annotated[str, StringConstraints(pattern=NO_NUL_PATTERN)]
"""What an exporter says about its failure: anything but NUL, as long as fits into a body."""

# Strict(False): after a Python validator pydantic no longer knows that the text came from JSON.
Time = Annotated[datetime, Strict(False), BeforeValidator(_is_rfc3339_time), AfterValidator(_in_utc)]
"""An RFC 3339 time with an offset; Python holds it in UTC."""

Date = Annotated[date, Strict(False), BeforeValidator(_is_rfc3339_date)]
"""A calendar date without a time."""


Amount = Annotated[str, AfterValidator(_is_amount), WithJsonSchema({"type": "string", "pattern": _AMOUNT_PATTERN})]
"""An amount of money as a decimal number in a string, never a float. Python holds it as amount_text writes it."""

Currency = Annotated[
    str, AfterValidator(_is_currency), WithJsonSchema({"type": "string", "pattern": _CURRENCY_PATTERN})
]
"""A currency by its three letters in ISO 4217. Whether there is such a currency is not checked."""


class NullIsEmpty:
    """Lets a list be null, which is the same as empty."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validates null by itself, so that nothing changes for a list."""
        nullable = core_schema.nullable_schema(handler(source))
        return core_schema.no_info_after_validator_function(lambda value: [] if value is None else value, nullable)


NULL_IS_EMPTY: Final = NullIsEmpty()
"""In the annotation of an optional list, after its bounds: null is an empty list."""

Count = Annotated[int, Field(ge=0, le=limits.INT64_MAX)]
"""A whole number that fits PostgreSQL's bigint."""


CUT: Final = "\N{HORIZONTAL ELLIPSIS}"
"""The last character of a text whose end was cut off."""


def shortened(text: str, chars_max: int) -> str:
    """The text if it has fewer than `chars_max` characters; else its start and CUT, together so many."""
    return text if len(text) < chars_max else text[: chars_max - 1] + CUT


def counted(count: int, one: str, many: str = "") -> str:
    """A number with what it counts: `1 row`, `2,000 rows`. `many` says what several are, if not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


class WireModel(BaseModel):
    """A JSON object of the contract: camelCase on the wire, snake_case in Python, strict, immutable.

    Strict means that a number is never accepted as a string, nor a string as a number. Unknown fields are ignored.
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
        json_schema_serialization_defaults_required=True,
    )

    _payload: str = PrivateAttr(default="")
    _idempotency_key: str = PrivateAttr(default="")
    _trace_context: TraceContext | None = PrivateAttr(default=None)

    @property
    def payload(self) -> str:
        """The JSON text that this was decoded from, with its unknown fields; empty if Python code built the model."""
        return self._payload

    @property
    def idempotency_key(self) -> str:
        """The `message_id` of the message this came in; empty where it had none."""
        return self._idempotency_key

    @property
    def trace_context(self) -> TraceContext | None:
        """The trace of the message this came in; None where it belongs to none."""
        return self._trace_context

    def with_trace_context(self, context: TraceContext | None) -> Self:
        """Remember the trace of the message this came in. Returns itself."""
        self._trace_context = context
        return self

    def with_idempotency_key(self, message_id: str | None) -> Self:
        """Remember the `message_id` of the message this came in. Returns itself."""
        self._idempotency_key = message_id or ""
        return self

    def with_payload(self, payload: str) -> Self:
        """Keep the JSON text that this was decoded from, for the event log. Returns the model itself."""
        self._payload = payload
        return self


class Override(WireModel):
    """A deliberate second export: why, and who approved it."""

    reason: Prose
    approved_by: Name


class SkippedClaim(WireModel):
    """A claim that a run left out, and why. `code` is a short reason for machines; left out of the JSON without one."""

    claim_id: ClaimId
    reason: Prose
    code: Annotated[Name | None, Field(exclude_if=not_)] = None


class ClaimDetails(WireModel):
    """What an exporter tells of one claim of a run: the voucher it became, and what it is worth."""

    claim_id: ClaimId
    voucher_id: Name | None = None
    voucher_url: (
        Annotated[str, StringConstraints(min_length=1, max_length=limits.VOUCHER_URL_CHARS_MAX, pattern=NAME_PATTERN)]
        | None
    ) = None
    amount: Amount | None = None
    currency: Currency | None = None


class ControlTotal(WireModel):
    """How many claims of one currency a run carried, and what they come to."""

    currency: Currency
    claim_count: Count
    amount: Amount


class RunError(WireModel):
    """Why a run failed, in the exporter's words."""

    code: Name
    detail: ErrorDetail


class Artifact(WireModel):
    """The file that a run produced: its key in the object store, its checksum and its size in bytes."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=limits.ARTIFACT_KEY_CHARS_MAX, pattern=NAME_PATTERN)]
    sha256: Name
    size_bytes: Count


EventClaims = Annotated[list[ClaimIdText], Field(max_length=limits.EVENT_CLAIMS_MAX), IN_CANONICAL_FORM]
EventSkippedClaims = Annotated[list[SkippedClaim], Field(max_length=limits.EVENT_CLAIMS_MAX), NULL_IS_EMPTY]
EventClaimDetails = Annotated[list[ClaimDetails], Field(max_length=limits.EVENT_CLAIM_DETAILS_MAX), NULL_IS_EMPTY]
EventTotals = Annotated[list[ControlTotal], Field(max_length=limits.EVENT_TOTALS_MAX), NULL_IS_EMPTY]
