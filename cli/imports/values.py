"""What the cells of one row say: fields of the contract, or why they cannot be read."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from cli.imports.amounts import AmountReader, ReadAmount
from cli.imports.mapping import WORDS, FieldName, Mapping
from cli.imports.record_files import Cell, Row, plain_text
from schema.fields import Amount, ClaimDetails, ClaimIdText, Currency, Name, Prose, Time

EXCEL: Final = "excel"
_EXCEL_START: Final = datetime(1899, 12, 30)  # noqa: DTZ001 -- it gets the time zone of the mapping
_EXCEL_DAYS_MAX: Final = 2_958_465
"""The last day of the year 9999."""

DIGEST_BYTES: Final = 16

_CUT_NUMBER: Final = re.compile(r"\d[.,]\d+[eE]\+?\d+")
"""A long number that a spreadsheet has rounded: 1.23457E+11."""

RUN_TEXTS: Final[tuple[FieldName, ...]] = ("orgId", "triggeredBy", "format", "targetSystem", "scope", "externalAckId")

_TEXTS: Final[dict[str, TypeAdapter[Any]]] = {
    **{name: TypeAdapter(Name) for name in (*RUN_TEXTS, "code", "voucherId")},
    "claimId": TypeAdapter(ClaimIdText),
    "reason": TypeAdapter(Prose),
    "currency": TypeAdapter(Currency),
    "amount": TypeAdapter(Amount),
    "voucherUrl": TypeAdapter(ClaimDetails.model_fields["voucher_url"].rebuild_annotation()),
    "time": TypeAdapter(Time),
}


class UnreadableCell(ValueError):
    """A cell that says nothing that its field could hold; the text says why, and does not repeat the cell."""


@dataclass(slots=True)
class RowFacts:
    """What one row says of its run and of its claims."""

    key: list[str] = field(default_factory=list)
    run: dict[str, str] = field(default_factory=dict)
    claims: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_ignored: bool = False
    digest: str = ""
    """Of all that the row says, also in columns that the mapping does not name: a copy of it has the same."""


class RowReader:
    """Reads rows by a mapping."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._headings = set(mapping.headings)
        no_words: dict[FieldName, dict[str, str]] = {name: {} for name in WORDS}
        self._words = {
            name: {
                **{word: word for word in WORDS.get(name, ())},
                **{word.strip().casefold(): meaning for word, meaning in words.items()},
            }
            for name, words in {**no_words, **mapping.words}.items()
        }
        self._time = lru_cache(maxsize=10_000)(self._parsed_time)
        self._amounts = AmountReader(mapping.decimal_sign, mapping.thousands_sign)

    def read(self, row: Row) -> RowFacts:
        """What a row says. What is wrong with it is in its `problems`."""
        facts = RowFacts()
        facts.key = [plain_text(row.cells.get(heading)) for heading in self._mapping.run_key]
        if row.problem is not None:
            facts.problems.append(row.problem)
            with suppress(UnreadableCell):  # so much says which run must not be imported without this row
                facts.run["orgId"] = self._text(row, "orgId") or ""
            return facts
        facts.problems += [
            f"{heading}: is blank, and names the run"
            for heading, text in zip(self._mapping.run_key, facts.key, strict=True)
            if not text
        ]
        self._read_run(row, facts)
        self._read_claims(row, facts)
        others = [(heading, plain_text(row.cells[heading])) for heading in row.cells if heading not in self._headings]
        said = json.dumps([facts.run, facts.claims, others]).encode()
        facts.digest = blake2b(said, digest_size=DIGEST_BYTES).hexdigest()
        return facts

    def _cell(self, row: Row, name: FieldName) -> Cell:
        cell = row.cells.get(self._mapping.columns.get(name, ""))
        return cell if plain_text(cell) else self._mapping.constants.get(name)

    def _text(self, row: Row, name: FieldName) -> str | None:
        """The text of a field, with the word of the mapping in place of the word of the file. Raises UnreadableCell."""
        text = plain_text(self._cell(row, name))
        if not text:
            return None
        words = self._words.get(name, {})
        meaning = words.get(text.casefold())
        if meaning is None and name in WORDS:
            raise UnreadableCell(f"{text!r:.60} is none of the words that the mapping knows")
        value = meaning or (text.upper() if name == "currency" else text)
        return _valid(name, value) if name in _TEXTS else value

    def _read_run(self, row: Row, facts: RowFacts) -> None:
        def note(name: FieldName, read: Callable[[], str | None]) -> None:
            try:
                if (value := read()) is not None:
                    facts.run[name] = value
            except UnreadableCell as error:
                facts.problems.append(f"{self._mapping.columns.get(name, name)}: {error}")

        for name in (*RUN_TEXTS, "status", "trigger"):
            note(name, lambda name=name: self._text(row, name))  # type: ignore[misc]
        for name in ("createdAt", "finishedAt"):
            note(name, lambda name=name: self._time_text(self._cell(row, name)))  # type: ignore[misc]
        for name in ("periodStart", "periodEnd"):
            note(name, lambda name=name: self._date_text(self._cell(row, name)))  # type: ignore[misc]
        for name in ("orgId", "triggeredBy", "format"):
            if name not in facts.run and not facts.problems:
                facts.problems.append(f"{self._mapping.columns.get(name, name)}: is blank")
        if not facts.run.keys() & {"createdAt", "finishedAt"} and not facts.problems:
            facts.problems.append("neither createdAt nor finishedAt is given")

    def _read_claims(self, row: Row, facts: RowFacts) -> None:
        details: dict[str, str] = {}
        names: tuple[FieldName, ...] = ("outcome", "reason", "code", "voucherId", "voucherUrl", "currency")
        for name in names:
            try:
                if (text := self._text(row, name)) is not None:
                    details[name] = text
            except UnreadableCell as error:
                facts.problems.append(f"{self._mapping.columns.get(name, name)}: {error}")
        facts.is_ignored = details.get("outcome") == "ignored"
        try:
            self._read_amount(self._cell(row, "amount"), details)
        except UnreadableCell as error:
            facts.problems.append(f"{self._mapping.columns.get('amount', 'amount')}: {error}")
        name = "claimId" if "claimId" in self._mapping.columns else "claimIds"
        try:
            claim_ids = self._claim_ids(row.cells.get(self._mapping.columns[name]))
        except UnreadableCell as error:
            facts.problems.append(f"{self._mapping.columns[name]}: {error}")
            return
        if name == "claimId" and not claim_ids:
            facts.problems.append(f"{self._mapping.columns['claimId']}: is blank")
        if len(claim_ids) > 1:
            details.pop("amount", None)  # it is that of all claims together
            details.pop("currency", None)
        facts.claims = [{"claimId": claim_id, **details} for claim_id in claim_ids]

    def _claim_ids(self, cell: Cell) -> list[str]:
        if isinstance(cell, list):
            texts = [plain_text(each) if isinstance(each, str | Decimal) else "" for each in cell]
            if "" in texts:
                raise UnreadableCell("must be a list of texts that are not blank")
        elif "claimId" in self._mapping.columns:
            texts = [plain_text(cell)]
        else:
            texts = [text.strip() for text in plain_text(cell).split(self._mapping.claim_separator)]
        return [self._claim_id(text) for text in texts if text]

    def _claim_id(self, text: str) -> str:
        if _CUT_NUMBER.fullmatch(text):
            raise UnreadableCell("is a number that a spreadsheet has rounded; take it from the source again")
        if self._mapping.claim_digits is not None and text.isascii() and text.isdigit():
            text = text.zfill(self._mapping.claim_digits)
        return _valid("claimId", text)

    def _read_amount(self, cell: Cell, details: dict[str, str]) -> None:
        """Add the amount to the details of a claim, and the currency beside it. Raises UnreadableCell."""
        text = plain_text(cell)
        if not text:
            return
        amount = ReadAmount(text, None) if isinstance(cell, Decimal) else self._amounts.read(text)
        if amount is None:
            sign = self._mapping.decimal_sign
            raise UnreadableCell(f"is no amount with the decimal sign {sign!r} and the thousands sign of the mapping")
        if amount.currency is not None and details.setdefault("currency", amount.currency) != amount.currency:
            raise UnreadableCell(f"is in {amount.currency}, and the row says {details['currency']}")
        details["amount"] = _valid("amount", amount.text)

    def _time_text(self, cell: Cell) -> str | None:
        time = self._time_of(cell)
        if time is None:
            return None
        if time.tzinfo is None:
            time = time.replace(tzinfo=self._mapping.zone)
        try:
            utc: datetime = _TEXTS["time"].validate_python(time.isoformat())
        except (ValidationError, OverflowError) as error:
            raise UnreadableCell("is outside the times that there are") from error
        return utc.isoformat().replace("+00:00", "Z")

    def _date_text(self, cell: Cell) -> str | None:
        time = self._time_of(cell)
        return None if time is None else time.date().isoformat()

    def _time_of(self, cell: Cell) -> datetime | None:
        if isinstance(cell, datetime):
            return cell
        if isinstance(cell, list):
            raise UnreadableCell("is a list, and must be a time")
        text = plain_text(cell)
        return self._time(text, isinstance(cell, Decimal)) if text else None

    def _parsed_time(self, text: str, is_number: bool) -> datetime:
        if is_number or (EXCEL in self._mapping.date_formats and re.fullmatch(r"\d{1,7}([.,]\d+)?", text)):
            days = Decimal(text.replace(",", "."))
            if not 1 <= days <= _EXCEL_DAYS_MAX:
                raise UnreadableCell("is no count of days since 1900")
            return _EXCEL_START + timedelta(seconds=round(float(days) * 86_400))
        for form in self._mapping.date_formats:
            if form != EXCEL:
                try:
                    return datetime.strptime(text, form)  # noqa: DTZ007 -- it gets the time zone of the mapping
                except ValueError:
                    continue
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            forms = ", ".join([*self._mapping.date_formats, "ISO 8601"])
            raise UnreadableCell(f"is no time in one of the forms {forms}") from None


def _valid(name: str, text: str) -> str:
    """What the field holds for a text. Raises UnreadableCell."""
    try:
        value: str = _TEXTS[name].validate_python(text)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False)
        if first["type"] == "string_pattern_mismatch":
            raise UnreadableCell("is blank or holds control characters") from None
        raise UnreadableCell(str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]) from None
    return value
