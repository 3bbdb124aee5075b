"""What the cells of one row say: fields of the contract, or why they cannot be read."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from cli.imports.amounts import AmountReader, ReadAmount
from cli.imports.mapping import MINUS, SIDES, WORDS, FieldName, Mapping
from cli.imports.records import Cell, Row, UnknownResult, UnreadableCell, plain_text
from cli.imports.times import TimeReader
from schema.fields import Amount, ClaimDetails, ClaimIdText, Currency, Name, Prose, Time
from schema.limits import FUTURE_TOLERANCE_S

DIGEST_BYTES: Final = 16

_CUT_NUMBER: Final = re.compile(r"\d[.,]\d+[eE]\+?\d+")
"""A long number that a spreadsheet has rounded: 1.23457E+11."""

_ERROR: Final = re.compile(r"#[A-ZÀ-Ý0-9/]+[!?]|#N/A|#NV|#I/T|#{2,}")
"""What a spreadsheet shows in place of a value, in several languages: `#REF!`, `#WERT!`, `#NOM?`, `####`."""

_QUOTED: Final = re.compile(r'="([^"]*)"')
"""What programs write into a CSV file so that a spreadsheet keeps the zeros of a number: `="000417"`."""

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
    """Reads rows by a mapping, of a file that counts days from `first_day` where a time is a number."""

    def __init__(self, mapping: Mapping, first_day: datetime) -> None:
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
        self._times = TimeReader(mapping, first_day)
        self._latest = datetime.now(UTC) + timedelta(seconds=FUTURE_TOLERANCE_S)
        self._amounts = AmountReader(mapping.decimal_sign, mapping.thousands_sign)

    def read(self, row: Row) -> RowFacts:
        """What a row says. What is wrong with it is in its `problems`."""
        facts = RowFacts()
        facts.key = [self._key_text(row, heading, facts) for heading in self._mapping.run_key]
        if row.problem is not None:
            facts.problems = [row.problem]
            with suppress(UnreadableCell):  # so much says which run must not be imported without this row
                facts.run["orgId"] = self._text(row, "orgId") or ""
            return facts
        self._read_run(row, facts)
        self._read_claims(row, facts)
        others = [(heading, plain_text(row.cells[heading])) for heading in row.cells if heading not in self._headings]
        said = json.dumps([facts.run, facts.claims, others]).encode()
        facts.digest = blake2b(said, digest_size=DIGEST_BYTES).hexdigest()
        return facts

    def _key_text(self, row: Row, heading: str, facts: RowFacts) -> str:
        """A part of the key of the run, also where it is refused: the row is put to the others that say the same."""
        cell = row.cells.get(heading)
        try:
            text = plain_text(_checked(cell))
        except UnreadableCell as error:
            facts.problems.append(f"{heading}: {error}")
            return plain_text(cell)
        if not text:
            facts.problems.append(f"{heading}: is blank, and names the run")
        return text

    def _cell(self, row: Row, name: FieldName) -> Cell:
        """The cell of a field, or its constant where that is blank. Raises UnreadableCell."""
        cell = _checked(row.cells.get(self._mapping.columns.get(name, "")))
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
        if "debit" in self._mapping.columns:
            self._read_sides(row, details, facts.problems)
        try:
            self._read_amount(self._cell(row, "amount"), details)
        except UnreadableCell as error:
            facts.problems.append(f"{self._mapping.columns.get('amount', 'amount')}: {error}")
        try:
            self._give_sign(row, details)
        except UnreadableCell as error:
            facts.problems.append(f"{self._mapping.columns.get('sign', 'sign')}: {error}")
        name = "claimId" if "claimId" in self._mapping.columns else "claimIds"
        try:
            claim_ids = self._claim_ids(_checked(row.cells.get(self._mapping.columns[name])))
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
        if isinstance(cell, datetime):
            raise UnreadableCell("is a time; a spreadsheet makes one of an id such as 3-4")
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
            thousands = (
                f"the thousands sign {self._mapping.thousands_sign!r}"
                if self._mapping.thousands_sign
                else "no thousands sign"
            )
            raise UnreadableCell(f"is no amount with the decimal sign {sign!r} and {thousands}")
        if amount.currency is not None and details.setdefault("currency", amount.currency) != amount.currency:
            raise UnreadableCell(f"is in {amount.currency}, and the row says {details['currency']}")
        details["amount"] = _valid("amount", amount.text)

    def _read_sides(self, row: Row, details: dict[str, str], problems: list[str]) -> None:
        """Add the amount, which stands in one of two columns, to the details of a claim. Many ledgers print a zero in
        the other one.
        """
        amounts: list[str] = []
        for name in SIDES:
            heading = self._mapping.columns[name]
            try:
                self._read_amount(_checked(row.cells.get(heading)), details)
                amount = details.pop("amount", "")
                if amount.startswith("-"):
                    raise UnreadableCell("has a minus, and the column itself says the sign")
            except UnreadableCell as error:
                problems.append(f"{heading}: {error}")
                return
            if amount:
                amounts.append(_valid("amount", f"-{amount}") if name == "credit" else amount)
        other_than_zero = [amount for amount in amounts if Decimal(amount)]
        if len(other_than_zero) > 1:
            problems.append(f"{' and '.join(self._mapping.columns[name] for name in SIDES)}: both have an amount")
        elif amounts:
            details["amount"] = (other_than_zero or amounts)[0]

    def _give_sign(self, row: Row, details: dict[str, str]) -> None:
        """Give the amount the sign that has a column of its own. Raises UnreadableCell."""
        if "sign" not in self._mapping.columns or "amount" not in details:
            return
        sign = self._text(row, "sign")
        if sign is None:
            raise UnreadableCell("is blank, and says whether the amount is plus or minus")
        if details["amount"].startswith("-"):
            raise UnreadableCell("says the sign of an amount that has a minus itself")
        if sign == MINUS:
            details["amount"] = _valid("amount", f"-{details['amount']}")

    def _time_text(self, cell: Cell) -> str | None:
        time = self._times.read(cell)
        if time is None:
            return None
        if time.tzinfo is None:
            time = time.replace(tzinfo=self._mapping.zone)
        try:
            utc: datetime = _TEXTS["time"].validate_python(time.isoformat())
        except (ValidationError, OverflowError) as error:
            raise UnreadableCell("is outside the times that there are") from error
        if utc > self._latest:
            raise UnreadableCell("is in the future")
        return utc.isoformat().replace("+00:00", "Z")

    def _date_text(self, cell: Cell) -> str | None:
        time = self._times.read(cell)
        return None if time is None else time.date().isoformat()


def _checked(cell: Cell) -> Cell:
    """A cell that holds a value, and no formula, nor what a spreadsheet shows in place of a value."""
    if isinstance(cell, UnknownResult):
        raise UnreadableCell(
            "is a formula without its result; open the file in a spreadsheet program, and save it there"
        )
    if isinstance(cell, str) and cell.lstrip()[:1] in {"=", "#"}:
        text = cell.strip()
        if quoted := _QUOTED.fullmatch(text):
            return quoted[1]
        if text.startswith("="):
            raise UnreadableCell("is a formula in place of a value")
        if _ERROR.fullmatch(text):
            raise UnreadableCell(f"is {text:.20}, which a spreadsheet shows in place of a value")
    return cell


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
