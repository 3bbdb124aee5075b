"""Compare the tables with what the log says, while workers go on.

The log is replayed, by the same code that stored it, into temporary tables of the same names. A group of organisations
is replayed and compared under one snapshot, in which the log and the tables agree if nothing is damaged: an event and
what follows from it are committed together. The transaction is read-only, so PostgreSQL itself keeps the verification
from changing anything.
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import sql
from schema.limits import TEXT_CHARS_MAX
from sql.connection import Connection
from sql.replayed_tables import Comparison, StoredTables, find_stored_tables, make_temporary_tables

from .log_replay import LogPage, Replay, read_log_page

GROUP_ENTRIES_MIN: Final = 10_000
"""A group with fewer entries gets one organisation more. So a snapshot is short, unless an organisation is large."""

LAST_ORGANISATION: Final = "\U0010ffff" * (TEXT_CHARS_MAX + 1)
"""No organisation comes after it. A condition that may be missing would have PostgreSQL read on to the end."""

ORGANISATIONS_PAGE: Final = 1_000
RUNS_PAGE: Final = 10_000

DIFFERENCES_LISTED_MAX: Final = 1_000
"""All differences are counted, and so many of each comparison are listed."""

CLOCK_TOLERANCE_S: Final = 60
"""The times in CLOCK_COLUMNS were read from the clock in the transaction that wrote the log entry. They may differ from
the entry's time by so much: a transaction is shorter."""

CLOCK_COLUMNS: Final = ("detected_at", "last_joined_at", "granted_at")

ReportProgress: TypeAlias = Callable[[int, int], None]
"""Told how many entries were replayed, and of about how many."""

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not as the log says: what it has by the log, and what is stored, in the columns that differ.

    None: there should be no such row, or there is none.
    """

    table: str
    key: Json
    by_log: Json | None
    stored: Json | None


@dataclass(slots=True)
class Verification:
    """What was compared, and what differs."""

    entry_count: int = 0
    row_counts: dict[str, int] = field(default_factory=dict)
    """By table, how many rows there should be."""

    difference_count: int = 0
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Organisations:
    """A part of the organisations, in the order of their ids, both ends included."""

    first: str
    last: str = LAST_ORGANISATION


async def verify(
    connection: Connection,
    report: ReportProgress,
    *,
    org_id: str | None = None,
    since: datetime | None = None,
) -> Verification:
    """Compare the tables with the log: of all organisations, of one, or of those that have an entry since some time.

    `connection` is used for nothing else, before and afterwards: it keeps temporary tables.
    """
    stored = await find_stored_tables(connection)
    comparisons = await make_temporary_tables(connection, stored, CLOCK_COLUMNS, CLOCK_TOLERANCE_S)
    total = await connection.fetchval(sql.query("count_log"), org_id)
    verifying = _Verifying(connection, stored, comparisons, lambda done: report(done, max(done, total)))
    if org_id is not None:
        await verifying.compare(_Organisations(org_id, org_id))
    elif since is not None:
        async for organisation in _organisations_since(connection, since):
            await verifying.compare(_Organisations(organisation, organisation))
    else:
        first: str | None = ""
        while first is not None:
            first = await verifying.compare(_Organisations(first))
        await verifying.find_unknown_runs()
    return verifying.verification


async def _organisations_since(connection: Connection, since: datetime) -> AsyncIterator[str]:
    above = ""
    while rows := await connection.fetch(sql.query("list_log_organisations"), above, ORGANISATIONS_PAGE):
        for row in rows:
            if row["received_at"] >= since:
                yield row["org_id"]
        above = rows[-1]["org_id"]


class _Verifying:
    """A verification under way."""

    def __init__(
        self,
        connection: Connection,
        stored: StoredTables,
        comparisons: list[Comparison],
        report: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._stored = stored
        self._comparisons = comparisons
        self._report = report
        self.verification = Verification()

    async def compare(self, organisations: _Organisations) -> str | None:
        """Compare the first of these organisations; returns where the next group begins, None: there is none."""
        async with self._stored.snapshot(self._connection):
            replay = Replay(self._connection)
            last = await self._replay(replay, organisations)
            for unusable in replay.unusable:
                self._add(
                    Difference(
                        "export_run_events",
                        {"event_id": str(unusable.event_id)},
                        None,
                        {"cannot be replayed": unusable.reason},
                    ),
                    1,
                )
            for comparison in self._comparisons:
                await self._compare_table(comparison, _Organisations(organisations.first, last))
        self.verification.entry_count += replay.entry_count
        return None if last == organisations.last else f"{last}\x01"

    async def _replay(self, replay: Replay, organisations: _Organisations) -> str:
        """Replay the log of a group; returns its last organisation."""
        page = LogPage.first_of(organisations.first, organisations.last)
        last_org_id = organisations.first
        while entries := await read_log_page(self._connection, page):
            for entry in entries:
                if replay.entry_count >= GROUP_ENTRIES_MIN and entry["org_id"] != last_org_id:
                    await replay.flush()
                    return last_org_id
                await replay.add(entry)
                last_org_id = entry["org_id"]
            page = page.after(entries[-1])
            self._report(self.verification.entry_count + replay.entry_count)
        await replay.flush()
        return organisations.last

    async def _compare_table(self, comparison: Comparison, organisations: _Organisations) -> None:
        counts = self.verification.row_counts
        counts[comparison.table] = counts.get(comparison.table, 0) + await comparison.count_rows(self._connection)
        rows = await comparison.differing_rows(
            self._connection, organisations.first, organisations.last, DIFFERENCES_LISTED_MAX
        )
        for row in rows:
            self._add(_difference(comparison, row["expected"], row["actual"]))
        self.verification.difference_count += rows[0]["differences"] if rows else 0

    async def find_unknown_runs(self) -> None:
        """Find rows of runs that neither the log nor the table of runs has: they belong to no organisation's log."""
        for comparison in self._comparisons:
            above = UUID(int=0)
            while comparison.is_found_by_run and (
                runs := await comparison.check_runs(self._connection, above, RUNS_PAGE)
            ):
                for run in runs:
                    if run["is_unknown"]:
                        self._add(Difference(comparison.table, {"run_id": str(run["run_id"])}, None, {}), 1)
                above = runs[-1]["run_id"]

    def _add(self, difference: Difference, count: int = 0) -> None:
        self.verification.difference_count += count
        if len(self.verification.differences) < DIFFERENCES_LISTED_MAX:
            self.verification.differences.append(difference)


def _difference(comparison: Comparison, expected_text: str | None, actual_text: str | None) -> Difference:
    expected: Json = json.loads(expected_text or "{}")
    actual: Json = json.loads(actual_text or "{}")
    row = expected or actual
    key = {column: row[column] for column in comparison.key_columns}
    names = [name for name in row if name not in key]
    if expected and actual:
        names = [name for name in names if expected[name] != actual[name]]
    return Difference(
        comparison.table,
        key,
        {name: expected[name] for name in names} if expected else None,
        {name: actual[name] for name in names} if actual else None,
    )
