"""Old records beside what the service has: which claims only one of them says were exported."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Final, Self

from cli.imports.mapping import Mapping
from cli.imports.reasons import Reasons
from cli.imports.records import RecordFile
from cli.imports.sorting import Entry, ExternalSort
from cli.imports.values import RowFacts, RowReader
from handlers.imports import Export, exports_of_organisation
from schema.claim_ids import canonical_claim_id
from schema.events import RunStatus
from sql.connection import Connection

LISTED_MAX: Final = 1_000
"""All differences are counted, and so many are listed."""

PROGRESS_ROWS: Final = 1_000

ReportProgress = Callable[[int, int], None]


class DifferenceKind(StrEnum):
    """How the file and the service differ over a claim that one of them says was exported in the period."""

    NOT_IN_SERVICE = "not in the service"
    NOT_IN_FILE = "not in the file"
    AMOUNT = "another amount"


@dataclass(frozen=True, slots=True)
class Difference:
    """A claim over which the records and the service differ, and what each of them says that it came to."""

    org_id: str
    claim_id: str
    kind: DifferenceKind
    file_amounts: list[str]
    service_amounts: list[str]


@dataclass(slots=True)
class Comparison:
    """What was compared."""

    rows: int = 0
    unreadable_rows: int = 0
    reasons: Reasons = field(default_factory=Reasons)
    first_day: date | None = None
    last_day: date | None = None
    """The period, in the time zone of the mapping: as it was given, or that of the file."""

    file_claims: int = 0
    service_claims: int = 0
    """Exported in the period, each once."""

    counts: Counter[DifferenceKind] = field(default_factory=Counter)
    listed: list[Difference] = field(default_factory=list)


@dataclass(slots=True)
class _Record:
    """What a file says of a claim that was exported: whether in the period, and the amounts that it came to."""

    claim_id: str
    is_of_period: bool = False
    amounts: set[str] = field(default_factory=set)


class FileComparison:
    """A comparison of one file with the service."""

    def __init__(self, mapping: Mapping, file: RecordFile, folder: Path) -> None:
        self._mapping = mapping
        self._file = file
        self._claims = ExternalSort(folder)
        self._differences = ExternalSort(folder)
        self._org_ids: set[str] = set()
        self.comparison = Comparison()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._claims.close()
        self._differences.close()

    def read_rows(self, report: ReportProgress, first: date | None, last: date | None) -> None:
        """Read the file; the period is that of its runs where no other is given. Raises FileRefused."""
        reader = RowReader(self._mapping, self._file.first_day)
        for row in self._file.rows():
            self.comparison.rows += 1
            facts = reader.read(row)
            if facts.problems:
                self.comparison.unreadable_rows += 1
                self.comparison.reasons.add(row.number, facts.problems)
            elif not facts.is_ignored:
                self._add(facts)
            if self.comparison.rows % PROGRESS_ROWS == 0:
                report(self._file.bytes_read, self._file.bytes_total)
        self.comparison.first_day = first or self.comparison.first_day
        self.comparison.last_day = last or self.comparison.last_day

    def _add(self, facts: RowFacts) -> None:
        day = self._day(facts)
        self.comparison.first_day = min(self.comparison.first_day or day, day)
        self.comparison.last_day = max(self.comparison.last_day or day, day)
        self._org_ids.add(facts.run["orgId"])
        if facts.run.get("status") == RunStatus.FAILED:
            return
        for claim in facts.claims:
            if claim.get("outcome", "exported") == "exported":
                amount = f"{claim['currency']} {claim['amount']}" if {"amount", "currency"} <= claim.keys() else None
                self._claims.add([facts.run["orgId"], canonical_claim_id(claim["claimId"])], [day.isoformat(), amount])

    def _day(self, facts: RowFacts) -> date:
        text = facts.run.get("createdAt") or facts.run["finishedAt"]
        return datetime.fromisoformat(text).astimezone(self._mapping.zone).date()

    async def compare(self, connection: Connection, report: ReportProgress) -> None:
        """Read what the service has, and compare, organisation by organisation, in the caller's snapshot."""
        for org_id, entries in groupby(self._claims, key=_org_id):
            self._org_ids.discard(org_id)
            records = (self._record(claim_id, group) for claim_id, group in groupby(entries, key=_claim_id))
            await self._compare_organisation(connection, org_id, records, report)
        for org_id in sorted(self._org_ids):
            await self._compare_organisation(connection, org_id, iter(()), report)

    def _record(self, claim_id: str, entries: Iterable[Entry]) -> _Record:
        first, last = str(self.comparison.first_day), str(self.comparison.last_day)
        record = _Record(claim_id)
        for _, (day, amount) in entries:
            record.is_of_period |= first <= day <= last
            if amount is not None:
                record.amounts.add(amount)
        return record

    async def _compare_organisation(
        self, connection: Connection, org_id: str, records: Iterator[_Record], report: ReportProgress
    ) -> None:
        """Both come in the order of the claims, which is the same here and in the database."""
        assert self.comparison.first_day is not None
        assert self.comparison.last_day is not None
        start = datetime.combine(self.comparison.first_day, time(), self._mapping.zone)
        end = datetime.combine(self.comparison.last_day + timedelta(days=1), time(), self._mapping.zone)
        record = next(records, None)
        async for export in exports_of_organisation(connection, org_id, start, end):
            while record is not None and record.claim_id < export.claim_id:
                self._compare(org_id, record, None)
                record = next(records, None)
            if record is not None and record.claim_id == export.claim_id:
                self._compare(org_id, record, export)
                record = next(records, None)
            else:
                self._compare(org_id, None, export)
            done = self.comparison.file_claims + self.comparison.service_claims
            if done % PROGRESS_ROWS == 0:
                report(done, done)
        while record is not None:
            self._compare(org_id, record, None)
            record = next(records, None)

    def _compare(self, org_id: str, record: _Record | None, export: Export | None) -> None:
        """Compare what the file and the service have of a claim; None: nothing."""
        in_file = record is not None and record.is_of_period
        in_service = export is not None and export.is_of_period
        self.comparison.file_claims += in_file
        self.comparison.service_claims += in_service
        if not in_file and not in_service:
            return
        file_amounts = set() if record is None else record.amounts
        service_amounts = set() if export is None else export.amounts
        if record is None:
            kind = DifferenceKind.NOT_IN_FILE
        elif export is None:
            kind = DifferenceKind.NOT_IN_SERVICE
        elif file_amounts and service_amounts and file_amounts != service_amounts:
            kind = DifferenceKind.AMOUNT
        else:
            return
        claim_id = record.claim_id if record is not None else export.claim_id if export is not None else ""
        difference = Difference(org_id, claim_id, kind, sorted(file_amounts), sorted(service_amounts))
        self.comparison.counts[kind] += 1
        if len(self.comparison.listed) < LISTED_MAX:
            self.comparison.listed.append(difference)
        self._differences.add([self.comparison.counts.total()], asdict(difference))

    def differences(self) -> Iterator[Difference]:
        """All differences, by organisation and claim."""
        for _, facts in self._differences:
            yield Difference(**{**facts, "kind": DifferenceKind(facts["kind"])})


def _org_id(entry: Entry) -> str:
    [org_id, _], _ = entry
    text: str = org_id
    return text


def _claim_id(entry: Entry) -> str:
    [_, claim_id], _ = entry
    text: str = claim_id
    return text
