"""The mapping of a file of old records: which column is which field of the contract, and how its values are written."""

import codecs
import re
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cli.console import FileRefused
from schema.events import RunStatus, RunTrigger
from schema.limits import TEXT_CHARS_MAX

EXCEL: Final = "excel"
"""The form of times that are counts of days."""

HAS_YEAR: Final = re.compile("%[YyGcxD]")
"""What a form of times has, unless its times are all of one year."""

HEADER_ROWS_MAX: Final = 5
YEAR_MIN: Final = 1970
"""A year before it is a number that was no date."""

YEAR_MAX: Final = 9998
MAPPING_BYTES_MAX: Final = 1024 * 1024

FieldName = Literal[
    "orgId",
    "triggeredBy",
    "format",
    "targetSystem",
    "periodStart",
    "periodEnd",
    "trigger",
    "scope",
    "createdAt",
    "finishedAt",
    "status",
    "externalAckId",
    "claimId",
    "claimIds",
    "outcome",
    "reason",
    "code",
    "voucherId",
    "voucherUrl",
    "amount",
    "sign",
    "debit",
    "credit",
    "currency",
]
"""What a column may be. The names are those of the contract; `outcome` and those after it are about one claim."""

OUTCOMES: Final = ("exported", "skipped", "ignored")
"""What a row may say of its claim; `ignored`: the row is about no export, and is left out."""

PLUS: Final = "plus"
MINUS: Final = "minus"

SIDES: Final[tuple[FieldName, ...]] = ("debit", "credit")
"""Two columns, of which a row has its amount in one. A credit is the minus."""

WORDS: Final[dict[FieldName, tuple[str, ...]]] = {
    "status": tuple(status for status in RunStatus if status is not RunStatus.PENDING),
    "outcome": OUTCOMES,
    "trigger": tuple(RunTrigger),
    "sign": (PLUS, MINUS),
}
"""The fields that have one of a few words."""

_REQUIRED: Final = ("orgId", "triggeredBy", "format")


def heading_text(text: str) -> str:
    """A heading with single spaces: a line end in a cell, or a space that cannot be broken, is no difference."""
    return " ".join(text.split())


Heading = Annotated[str, AfterValidator(heading_text)]


class Mapping(BaseModel):
    """A mapping, as its TOML file has it. Unknown names are refused: one would be a typing error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    run_key: list[Heading]
    """The columns that name a run together: rows that have the same values there are one run. With none, all are."""

    columns: dict[FieldName, Heading]
    """The heading of the column of each field."""

    constants: dict[FieldName, str] = Field(default_factory=dict)
    """Fields that have one value for all rows, or for those whose column is blank."""

    words: dict[FieldName, dict[str, str]] = Field(default_factory=dict)
    """By field, words of the file and what they mean here. Upper and lower case are the same."""

    date_formats: list[str] = Field(default_factory=list)
    """How times and dates are written, as in Python's strptime, or `excel`: days. ISO 8601 is always read."""

    year: Annotated[int | None, Field(ge=YEAR_MIN, le=YEAR_MAX)] = None
    """Of times that are written without one, such as `3101` for the end of January."""

    time_zone: str = "UTC"
    """Of times without an offset."""

    decimal_sign: Literal[".", ","] = "."
    thousands_sign: Literal["", ".", ",", " ", "'"] = ""
    claim_separator: Annotated[str, Field(min_length=1)] = ","
    """Between the claims of `claimIds`. White space around a claim says nothing."""

    claim_digits: Annotated[int | None, Field(ge=1, le=TEXT_CHARS_MAX)] = None
    """Claim ids of digits only get zeros before them, up to so many digits: a spreadsheet takes them away."""

    fill_down: list[Heading] = Field(default_factory=list)
    """Columns in which a blank cell means the value above it."""

    header_rows: Annotated[int, Field(ge=1, le=HEADER_ROWS_MAX)] = 1
    """How many rows the headings take. The texts above each other are joined: `Export / Date`."""

    delimiter: Annotated[str | None, Field(min_length=1, max_length=1)] = None
    encoding: str | None = None
    sheet: str | None = None
    """Of CSV and of a workbook. What is not given is recognised; of a workbook the first sheet is read."""

    @field_validator("time_zone")
    @classmethod
    def _time_zone_is_known(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("is no time zone such as Europe/Berlin")
        return name

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                codecs.lookup(name)
            except LookupError:
                raise ValueError("is no encoding such as utf-8 or windows-1252") from None
        return name

    @model_validator(mode="after")
    def _has_what_an_event_needs(self) -> Self:
        given = {*self.columns, *self.constants}
        if self.decimal_sign == self.thousands_sign:
            raise ValueError("decimal_sign and thousands_sign must differ")
        for form in self.date_formats:
            if form != EXCEL and "%" not in form:
                raise ValueError(f"date_formats: {form!r} is no form such as %d.%m.%Y")
            if form != EXCEL and not HAS_YEAR.search(form) and self.year is None:
                raise ValueError(f"date_formats: {form!r} has no year; give it by `year`")
        for field in _REQUIRED:
            if field not in given:
                raise ValueError(f"{field} must be given by [columns] or by [constants]")
        if not given & {"createdAt", "finishedAt"}:
            raise ValueError("[columns] must give createdAt or finishedAt")
        if len(self.columns.keys() & {"claimId", "claimIds"}) != 1:
            raise ValueError("[columns] must give claimId, one row per claim, or claimIds, one row per run")
        if "sign" in given and "amount" not in self.columns:
            raise ValueError("sign is that of the amount, and [columns] gives no amount")
        self._check_sides()
        for name, words in self.words.items():
            allowed = WORDS.get(name)
            if allowed and (wrong := [word for word in words.values() if word not in allowed]):
                raise ValueError(f"words.{name}: {wrong[0]!r} must be one of {', '.join(allowed)}")
        return self

    def _check_sides(self) -> None:
        """Raise ValueError where debit and credit are not two columns in place of the amount."""
        given = {*self.columns, *self.constants}
        if given.isdisjoint(SIDES):
            return
        if not self.columns.keys() >= set(SIDES) or self.constants.keys() & set(SIDES):
            raise ValueError("[columns] must give both debit and credit, and [constants] none of them")
        if given & {"amount", "sign"}:
            raise ValueError("debit and credit are in place of amount and sign")
        if self.columns["debit"] == self.columns["credit"]:
            raise ValueError("debit and credit must be two columns")

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of times without an offset."""
        return ZoneInfo(self.time_zone)

    @property
    def headings(self) -> list[str]:
        """The headings that the file must have, each once."""
        return list(dict.fromkeys([*self.run_key, *self.columns.values(), *self.fill_down]))


def read_mapping(path: Path) -> Mapping:
    """Read a mapping. Raises FileRefused, and says which part of it is wrong."""
    try:
        if path.stat().st_size > MAPPING_BYTES_MAX:
            raise FileRefused(f"{path}: is larger than {MAPPING_BYTES_MAX:,} bytes")
        return Mapping.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise FileRefused(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        raise FileRefused(f"{path}: {where}{': ' if where else ''}{message}") from error
    except ValueError as error:  # TOML or UTF-8
        raise FileRefused(f"{path}: is no TOML in UTF-8: {error}") from error
