"""What an import would do: read the rows, put the rows of each run together, compare them with what is known.

Rows, events and claims are kept in temporary files, so the memory does not grow with the file.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, Self

from cli.console import FileRefused
from cli.imports.mapping import Mapping
from cli.imports.reasons import Reasons
from cli.imports.records import Raw, RecordFile
from cli.imports.runs import RUN_ROWS_MAX, ImportedRun, RefusedRun, build_run
from cli.imports.sorting import ExternalSort
from cli.imports.values import RowFacts, RowReader
from handlers.imports import KnownRuns, known_runs
from schema.events import RUN_CREATED, RUN_FINISHED
from schema.fields import shortened
from sql.connection import Connection

LOOKUP_RUNS_MAX: Final = 200
LOOKUP_CHARS_MAX: Final = 4 * 1024 * 1024
"""Runs that are looked up at a time: so many, or so much of their events."""

DOUBLE_EXPORTS_LISTED_MAX: Final = 1_000
"""All are counted, and so many are listed."""

RUNS_NAMED_MAX: Final = 10
REASON_CHARS_MAX: Final = 1_000

ALL_ROWS: Final = "the whole file"
"""What a run is called that has no key."""

ANOTHER_ROW: Final = "another row of the same run was refused"
KNOWN_WITH_OTHER_ROWS: Final = "the run was imported before, with other rows; nothing of it is changed"
TOO_MANY_ROWS: Final = f"the run has more than {RUN_ROWS_MAX:,} rows; are the columns of run_key the right ones?"

ReportProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DoubleExport:
    """A claim that went out more than once by the old records, or by them and by the service's own runs."""

    org_id: str
    claim_id: str
    run_ids: list[str]
    run_keys: list[str]
    """What the old records call the run of each export."""

    amounts: list[str]
    currency: str | None
    """The amount of each export where all are known and in one currency."""


@dataclass(slots=True)
class Plan:
    """What was found, and what an import would make."""

    rows: int = 0
    ignored_rows: int = 0
    copied_rows: int = 0
    rejected_rows: int = 0
    rejected_runs: int = 0
    rows_of_no_run: int = 0
    """Rows with a claim, or that cannot be read, which do not say which run they belong to. It may be any."""

    reasons: Reasons = field(default_factory=Reasons)
    runs: int = 0
    claims: int = 0
    known_runs: int = 0
    known_claims: int = 0
    events: int = 0
    double_exports: int = 0
    double_amounts: dict[str, Decimal] = field(default_factory=dict)
    """By currency, what went out once too often: of each claim all amounts but the first, less what was taken back."""

    listed: list[DoubleExport] = field(default_factory=list)
    short_claim_ids: int = 0
    claim_digits: int = 0
    """Claim ids of digits only that have fewer digits than others which begin with zeros, and how many those have."""


class ImportPlan:
    """An import of one file."""

    def __init__(self, source: str, mapping: Mapping, file: RecordFile, folder: Path, *, with_alerts: bool) -> None:
        self._source = source
        self._mapping = mapping
        self._file = file
        self._with_alerts = with_alerts
        self._rows = ExternalSort(folder)
        self._rejects = ExternalSort(folder)
        self._exports = ExternalSort(folder)
        self._events: IO[str] = TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115
        self.plan = Plan()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for sort in (self._rows, self._rejects, self._exports):
            sort.close()
        self._events.close()

    def read_rows(self, report: ReportProgress) -> None:
        """Read the file. Raises FileRefused."""
        reader = RowReader(self._mapping, self._file.first_day)
        digits: Counter[int] = Counter()
        zeros: Counter[int] = Counter()
        for row in self._file.rows():
            self.plan.rows += 1
            facts = reader.read(row)
            if facts.is_ignored and not facts.problems:
                self.plan.ignored_rows += 1
                continue
            self.plan.rows_of_no_run += not all(facts.key) and (bool(facts.claims) or row.problem is not None)
            for claim in facts.claims:
                if claim["claimId"].isascii() and claim["claimId"].isdigit():
                    digits[len(claim["claimId"])] += 1
                    zeros[len(claim["claimId"])] += claim["claimId"].startswith("0")
            key = [facts.key, facts.run.get("orgId", ""), row.number]
            self._rows.add(key, [facts.run, facts.claims, facts.problems, row.raw, facts.digest])
            if self.plan.rows % 1_000 == 0:
                report(self._file.bytes_read, self._file.bytes_total)
        if not self.plan.rows:
            raise FileRefused(f"{self._file.path}: has headings, and no rows below them")
        self._note_short_ids(digits, zeros)

    def _note_short_ids(self, digits: Counter[int], zeros: Counter[int]) -> None:
        with_zeros = [length for length, count in zeros.items() if count]
        if with_zeros:
            self.plan.claim_digits = max(with_zeros)
            self.plan.short_claim_ids = sum(count for length, count in digits.items() if length < max(with_zeros))

    async def build(self, connection: "Connection | None", report: ReportProgress) -> None:
        """Make the runs, and find which are known. Without a database none is."""
        done = 0
        async for run, rows, known in self._looked_up(connection):
            done += len(rows)
            report(done, self.plan.rows)
            self._take(run, rows, known)
        self._find_double_exports()

    async def _looked_up(
        self, connection: "Connection | None"
    ) -> AsyncIterator[tuple[ImportedRun, list[tuple[int, Raw]], KnownRuns]]:
        waiting: list[tuple[ImportedRun, list[tuple[int, Raw]]]] = []
        chars = 0

        async def look_up() -> KnownRuns:
            if connection is None:
                return KnownRuns()
            claims = [(run.org_id, {each.claim_id for each in run.exported}) for run, _ in waiting]
            return await known_runs(connection, [(run.created, run.finished) for run, _ in waiting], claims)

        for run, rows in self._runs():
            waiting.append((run, rows))
            chars += len(run.created.payload) + len(run.finished.payload)
            if len(waiting) == LOOKUP_RUNS_MAX or chars >= LOOKUP_CHARS_MAX:
                known = await look_up()
                for each in waiting:
                    yield *each, known
                waiting, chars = [], 0
        if waiting:
            known = await look_up()
            for each in waiting:
                yield *each, known

    def _runs(self) -> Iterator[tuple[ImportedRun, list[tuple[int, Raw]]]]:
        """The runs that can be made, each with its rows; the rows of the others become rejects.

        A row without an organisation comes before the others with its key. It may belong to each of these runs, and a
        run that is imported without a row of its own can never get it.
        """
        key_without_organisation: list[str] | None = None
        for (key, org_id), entries in groupby(self._rows, key=lambda entry: entry[0][:2]):
            if not org_id:
                key_without_organisation = key
            facts: list[RowFacts] = []
            rows: list[tuple[int, Raw]] = []
            problems: dict[int, list[str]] = {}
            copies: set[str] = set()
            for (_, _, number), (run, claims, row_problems, raw, digest) in entries:
                if len(rows) == RUN_ROWS_MAX:
                    self._reject(number, raw, *(row_problems or [TOO_MANY_ROWS]))
                    problems.setdefault(rows[0][0], [TOO_MANY_ROWS])
                    continue
                if row_problems:
                    problems[number] = row_problems
                elif digest in copies:
                    self.plan.copied_rows += 1
                    continue
                else:
                    copies.add(digest)
                rows.append((number, raw))
                facts.append(RowFacts(run=run, claims=claims))
            if problems or key == key_without_organisation:
                self._reject_run(rows, problems)
                continue
            try:
                yield build_run(self._source, org_id, key, facts, with_alerts=self._with_alerts), rows
            except RefusedRun as refused:
                self._reject_run(rows, {number: [str(refused)] for number, _ in rows})

    def _take(self, run: ImportedRun, rows: list[tuple[int, Raw]], known: KnownRuns) -> None:
        if run.run_id in known.different:
            self._reject_run(rows, {number: [KNOWN_WITH_OTHER_ROWS] for number, _ in rows})
            return
        claims = len(set(run.finished.claim_ids)) + len(run.finished.skipped_claims)
        if run.run_id in known.same:
            self.plan.known_runs += 1
            self.plan.known_claims += claims
        else:
            self.plan.runs += 1
            self.plan.claims += claims
            self.plan.events += 2
            for kind, event in ((RUN_CREATED, run.created), (RUN_FINISHED, run.finished)):
                fields = [kind, run.org_id, str(event.event_id), event.payload]
                self._events.writelines([json.dumps(fields, ensure_ascii=False), "\n"])
        label = " / ".join(run.key) or ALL_ROWS
        for claim in run.exported:
            self._exports.add([run.org_id, claim.claim_id], [str(run.run_id), claim.amount, claim.currency, label])
        for claim_id in {each.claim_id for each in run.exported}:
            for run_id in known.exported_elsewhere.get((run.org_id, claim_id), ()):
                self._exports.add([run.org_id, claim_id], [str(run_id), None, None, None])

    def _reject_run(self, rows: list[tuple[int, Raw]], problems: dict[int, list[str]]) -> None:
        self.plan.rejected_runs += 1
        for number, raw in rows:
            self._reject(number, raw, *problems.get(number, [ANOTHER_ROW]))

    def _reject(self, number: int, raw: Raw, *problems: str) -> None:
        self.plan.rejected_rows += 1
        self.plan.reasons.add(number, problems)
        self._rejects.add([number], [raw, shortened(f"row {number}: {'; '.join(problems)}", REASON_CHARS_MAX)])

    def rejects(self) -> Iterator[tuple[Raw, str]]:
        """The rows that were refused, in the order of the file, each with the reason."""
        for _, (raw, reason) in self._rejects:
            yield raw, reason

    def events(self) -> Iterator[tuple[str, str, str, str]]:
        """The events of the runs that are not known: type, organisation, event id, body."""
        self._events.seek(0)
        for line in self._events:
            kind, org_id, event_id, body = json.loads(line)
            yield kind, org_id, event_id, body

    def _find_double_exports(self) -> None:
        for (org_id, claim_id), entries in groupby(self._exports, key=itemgetter(0)):
            exports = _distinct([record for _, record in entries])
            if len(exports) < 2:
                continue
            self.plan.double_exports += 1
            currencies = {currency for _, amount, currency, _ in exports if amount is not None}
            amounts = [amount for _, amount, _, _ in exports if amount is not None]
            currency = currencies.pop() if len(currencies) == 1 else None
            if currency is not None:
                surplus = _surplus(list(map(Decimal, amounts)), is_complete=len(amounts) == len(exports))
                self.plan.double_amounts[currency] = self.plan.double_amounts.get(currency, Decimal(0)) + surplus
            if len(self.plan.listed) < DOUBLE_EXPORTS_LISTED_MAX:
                run_ids = list(dict.fromkeys(run_id for run_id, *_ in exports))[:RUNS_NAMED_MAX]
                labels = [label or f"run {run_id}" for run_id, *_, label in exports][:RUNS_NAMED_MAX]
                self.plan.listed.append(
                    DoubleExport(org_id, claim_id, run_ids, labels, amounts[:RUNS_NAMED_MAX], currency)
                )


def _surplus(amounts: list[Decimal], *, is_complete: bool) -> Decimal:
    """What went out too much of a claim with these exports. What was taken back, and no more, makes it smaller.

    `is_complete`: the amounts of all exports are known. Else one that is not known is taken for the one that was right.
    """
    right = next((amount for amount in amounts if amount > 0), Decimal(0)) if is_complete else Decimal(0)
    return max(sum(amounts, Decimal(0)) - right, Decimal(0))


def _distinct(exports: list[list[Any]]) -> list[list[Any]]:
    """The exports of one claim: each by a run of this file, and one by each other run.

    Another run has no label. It was found once for each run of this file with the claim, and may be one of these.
    """
    distinct = [export for export in exports if export[-1] is not None]
    run_ids = {run_id for run_id, *_ in distinct}
    others = {export[0]: export for export in exports if export[0] not in run_ids}
    return [*distinct, *others.values()]
