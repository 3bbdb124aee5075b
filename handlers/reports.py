"""What an audit report is made of: the log up to a position, replayed, and read under one snapshot.

A report is made from the log alone, by the code that stored it, in temporary tables: so a report of an earlier position
is made like one of now, and is the same again (docs/decisions/reports-from-the-log.md). PostgreSQL keeps a report from
changing anything: its transaction is read-only.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final, TypeAlias

from asyncpg import Record

import sql
from sql.connection import Connection, snapshot
from sql.replayed_tables import find_stored_tables, make_temporary_tables

from .log_replay import LogPage, Replay, UnusableEntry, read_log_page
from .verification import LAST_ORGANISATION

ROWS_AT_ONCE: Final = 2_000
"""Rows of a table that are fetched at a time."""

WRITERS_WAIT_MAX_S: Final = 60.0
WRITERS_POLL_S: Final = 0.05

STALE_RUN_S: Final = 86_400
"""A run that has no end is stale when it began so long before the report's log ends."""

ReportProgress: TypeAlias = Callable[[int, int], None]
"""Told how much is done, and of about how much."""


class ReportRefused(Exception):
    """No report can be made. The text says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class ReportScope:
    """What a report is about: one organisation or all, the runs that began in a period, the log up to a position."""

    org_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    """The first moment after the period."""

    as_of: int | None = None


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The name of a table of a report, and the text of the query that reads it."""

    name: str
    query: str


TABLES: Final = (
    ReportTable("runs", sql.query("report_runs")),
    ReportTable("totals", sql.query("report_totals")),
    ReportTable("claims", sql.query("report_claims")),
    ReportTable("overrides", sql.query("report_overrides")),
    ReportTable("reversals", sql.query("report_reversals")),
    ReportTable("double_exports", sql.query("report_double_exports")),
    ReportTable("double_export_runs", sql.query("report_double_export_runs")),
    ReportTable("remarks", sql.query("report_remarks")),
)


@dataclass(slots=True)
class ReportedLog:
    """The part of the log that a report is made from."""

    position: int
    last_received_at: datetime | None = None
    """When the last of its entries was stored."""

    entry_counts: Counter[str] = field(default_factory=Counter)
    """By type."""

    unusable: list[UnusableEntry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Control:
    """What the runs of a report say of themselves."""

    runs: int
    claims_carried: int
    claims_skipped: int
    claims_reversed: int
    runs_that_differ: int
    """Runs whose counts are not those of their claims."""


class Report:
    """The tables of a report. It is of use until its transaction ends."""

    def __init__(self, connection: Connection, scope: ReportScope, log: ReportedLog) -> None:
        self._connection = connection
        self._scope = scope
        self.log = log

    async def columns(self, table: ReportTable) -> list[str]:
        """The names of a table's columns."""
        statement = await self._connection.prepare(table.query)
        return [attribute.name for attribute in statement.get_attributes()]

    async def rows(self, table: ReportTable) -> AsyncIterator[Record]:
        """The rows of a table, some at a time, in an order that follows from them."""
        statement = await self._connection.prepare(table.query)
        period = self._scope.start, self._scope.end
        arguments = (*period, self.log.last_received_at, STALE_RUN_S, self.log.position)
        async for row in statement.cursor(*arguments[: len(statement.get_parameters())], prefetch=ROWS_AT_ONCE):
            yield row

    async def control(self) -> Control:
        """What the runs say of themselves."""
        row = await self._connection.fetchrow(sql.query("report_control"), self._scope.start, self._scope.end)
        assert row is not None
        return Control(*row)

    async def span(self) -> tuple[date, date] | None:
        """The days on which the first and the last of the runs began, in UTC; None if there are no runs."""
        row = await self._connection.fetchrow(sql.query("report_span"), self._scope.start, self._scope.end)
        assert row is not None
        return None if row["first_at"] is None else (row["first_at"].date(), row["last_at"].date())

    async def by_time(self, step: str, time_zone: str) -> tuple[list[Record], list[Record]]:
        """Claims by day and outcome, and amounts by day and currency; `step` is `day`, `month` or `year`."""
        arguments = self._scope.start, self._scope.end, step, time_zone
        claims = await self._connection.fetch(sql.query("report_by_time"), *arguments)
        return claims, await self._connection.fetch(sql.query("report_amounts_by_time"), *arguments)

    async def by_system(self) -> list[Record]:
        """Claims by system and outcome."""
        rows: list[Record] = await self._connection.fetch(
            sql.query("report_by_system"), self._scope.start, self._scope.end
        )
        return rows


@asynccontextmanager
async def open_report(connection: Connection, scope: ReportScope, report: ReportProgress) -> AsyncIterator[Report]:
    """Replay the log, and keep what it comes to until the end. Raises ReportRefused.

    `connection` is used for nothing else, before and afterwards: it keeps temporary tables.
    """
    stored = await find_stored_tables(connection)
    await make_temporary_tables(connection, stored, (), 0)
    last_position = await _complete_position(connection)
    if scope.as_of is not None and scope.as_of > last_position:
        raise ReportRefused(f"the log ends at position {last_position}, before {scope.as_of}")
    position = last_position if scope.as_of is None else scope.as_of
    async with snapshot(connection):
        log = await _replay(connection, scope.org_id, position, report)
        if scope.org_id is not None and not log.entry_counts:
            raise ReportRefused(f"the log has nothing of organisation {scope.org_id} up to position {position}")
        # The replay reads row by row, whatever is in the tables; a report reads them whole.
        await stored.analyze_temporary_tables(connection)
        await connection.execute(sql.query("allow_sequential_scans"))
        yield Report(connection, scope, log)


async def _complete_position(connection: Connection) -> int:
    """A position up to which the log is complete: nobody will still commit an entry below it. Raises ReportRefused.

    Whoever has drawn a lower position holds a lock of the log until the entry can be seen. This waits for those who do,
    as PostgreSQL waits before it builds an index beside the work, so nobody has to wait for the report.
    """
    position: int = await connection.fetchval(sql.query("get_last_log_position"))
    writers = await _log_writers(connection)
    deadline_s = asyncio.get_running_loop().time() + WRITERS_WAIT_MAX_S
    while writers:
        if asyncio.get_running_loop().time() > deadline_s:
            raise ReportRefused(
                f"a transaction that writes to the log has not ended for {WRITERS_WAIT_MAX_S:.0f} s; "
                "repeat the command later"
            )
        await asyncio.sleep(WRITERS_POLL_S)
        writers &= await _log_writers(connection)
    return position


async def _log_writers(connection: Connection) -> set[str]:
    return {row["writer"] for row in await connection.fetch(sql.query("list_log_writers"))}


async def _replay(connection: Connection, org_id: str | None, position: int, report: ReportProgress) -> ReportedLog:
    log = ReportedLog(position)
    total = await connection.fetchval(sql.query("count_log"), org_id)
    replay = Replay(connection)
    page = LogPage.first_of("", LAST_ORGANISATION) if org_id is None else LogPage.first_of(org_id, org_id)
    while entries := await read_log_page(connection, page):
        await _replay_page(replay, [entry for entry in entries if entry["position"] <= position], log)
        page = page.after(entries[-1])
        report(replay.entry_count, max(replay.entry_count, total))
    await replay.flush()
    log.unusable = replay.unusable
    return log


async def _replay_page(replay: Replay, entries: Sequence[Record], log: ReportedLog) -> None:
    for entry in entries:
        await replay.add(entry)
        log.entry_counts[entry["event_type"]] += 1
        received_at: datetime = entry["received_at"]
        log.last_received_at = max(log.last_received_at or received_at, received_at)
