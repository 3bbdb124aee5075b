"""Double exports: claims that several runs have exported, or that one run named twice.

There is one record per claim. It follows from the exports, the overrides and the reversals, and from nothing else: two
runs make a claim a double export when both have exported it, no override names the two, and neither was granted it
after the export by the other had been taken back (docs/decisions/reversals.md). The record is written by whoever makes
the claim one, in the same transaction, with one alert for the run that did it. Its runs are not written down: they are
looked up when somebody asks.
"""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from asyncpg import Record

import sql
from schema.alerts import DoubleExportFoundBy
from schema.claim_ids import spelling_of
from schema.errors import ErrorCode
from schema.events import RunFinished, RunStatus
from schema.limits import (
    ALERT_CLAIMS_MAX,
    ALERT_EARLIER_RUNS_MAX,
    DOUBLE_EXPORT_RUNS_COUNTED_MAX,
    DOUBLE_EXPORT_RUNS_MAX,
)
from schema.requests import ListDoubleExports, ResolveDoubleExport
from schema.results import DoubleExport, DoubleExportRun, DoubleExports
from schema.trace_context import TraceContext
from sql.connection import Connection, transaction

from .cursors import decode_claim_cursor, encode_claim_cursor, scope_of
from .errors import RequestRefused, conflict
from .event_log import EventType, log_write
from .locking import lock_runs_and_claims
from .query_arguments import (
    SEPARATOR,
    DoubleExportRunsSearch,
    DoubleExportsPage,
    DoubleExportsSearch,
    JoinedClaims,
    NewAlert,
    RepeatedClaim,
    Resolution,
    RunKey,
    column_arrays,
    joined,
)

EARLIER_RUNS_READ_MAX: Final = 10_000
"""Exports that are looked at to name the earlier runs of one alert."""


@dataclass(slots=True)
class RunDoubleExports:
    """What one run does to claims that it exports: which it makes double exports, and which runs exported them before.

    Claims that the run named twice have no earlier run.
    """

    claim_ids: set[str] = field(default_factory=set)
    earlier_run_ids: dict[UUID, None] = field(default_factory=dict)


class FoundDoubleExports:
    """The double exports that one transaction makes, by run."""

    def __init__(self) -> None:
        self._by_run: defaultdict[RunKey, RunDoubleExports] = defaultdict(RunDoubleExports)

    async def look_for(self, connection: Connection, exports: Iterable[tuple[UUID, str, Collection[str]]]) -> None:
        """Find what runs make double exports by exporting claims, before the claims are written.

        The exports come as (run, organisation, claim ids). The caller holds the locks of the claims. No run and no
        claim of an organisation may be there twice.
        """
        claims_of_run = {RunKey(run_id, org_id): claim_ids for run_id, org_id, claim_ids in exports if claim_ids}
        found = await _find_double_exports(connection, claims_of_run)
        # Of more claims than an alert names, it was only asked which are double exports.
        named = {
            run: sorted(double_exports.claim_ids)[:ALERT_CLAIMS_MAX]
            for run, double_exports in found.items()
            if len(claims_of_run[run]) > ALERT_CLAIMS_MAX
        }
        for run, double_exports in (await _find_double_exports(connection, named)).items():
            found[run].earlier_run_ids = double_exports.earlier_run_ids
        for run, double_exports in found.items():
            self._by_run[run].claim_ids |= double_exports.claim_ids
            self._by_run[run].earlier_run_ids |= double_exports.earlier_run_ids

    async def record(
        self,
        connection: Connection,
        finished: Collection[RunFinished],
        joined_at: Mapping[RunKey, datetime] | None = None,
    ) -> None:
        """Record what was found and the claims that these events name twice, and put an alert per run into the outbox.

        An event that was told before must not be among them. An imported one has no alert unless it asks for one. An
        alert belongs to the trace of its run's event. Where the log is replayed, `joined_at` says when the event of
        each run took effect, and there are no alerts.
        """
        if repeated := _repeated_claims(finished):
            for row in await connection.fetch(sql.query("record_repeated_claims"), *column_arrays(repeated)):
                self._by_run[RunKey(row["run_id"], row["org_id"])].claim_ids.add(row["claim_id"])
        if not self._by_run:
            return
        now = await connection.fetchval(sql.query("get_time"))
        joined_claims = (
            JoinedClaims(run.org_id, joined(double_exports.claim_ids), now if joined_at is None else joined_at[run])
            for run, double_exports in self._by_run.items()
        )
        await connection.execute(sql.query("record_double_exports"), *column_arrays(joined_claims))
        if joined_at is not None:
            return
        silent = {
            RunKey(event.run_id, event.org_id) for event in finished if event.imported and not event.alert_if_imported
        }
        traces = {RunKey(event.run_id, event.org_id): event.trace_context for event in finished if event.trace_context}
        alerts = [
            _alert(run, double_exports, traces.get(run))
            for run, double_exports in self._by_run.items()
            if run not in silent
        ]
        if alerts:
            await connection.execute(sql.query("insert_alerts"), *column_arrays(alerts), now)


async def _find_double_exports(
    connection: Connection, claims_of_run: Mapping[RunKey, Collection[str]]
) -> dict[RunKey, RunDoubleExports]:
    """What these runs make double exports by exporting these claims, and the first of the other runs to finish.

    Of a run with more claims than an alert names, only one other run of each claim is looked at.
    """
    if not claims_of_run:
        return {}
    searches = [
        DoubleExportsSearch(
            *run,
            joined(claim_ids),
            runs_max=EARLIER_RUNS_READ_MAX // len(claim_ids) if len(claim_ids) <= ALERT_CLAIMS_MAX else 1,
        )
        for run, claim_ids in claims_of_run.items()
    ]
    rows = await connection.fetch(sql.query("find_double_exports"), *column_arrays(searches), ALERT_EARLIER_RUNS_MAX)
    return {
        RunKey(row["run_id"], row["org_id"]): RunDoubleExports(
            set(row["claim_ids"].split(SEPARATOR)), dict.fromkeys(row["earlier_run_ids"])
        )
        for row in rows
    }


def _repeated_claims(finished: Iterable[RunFinished]) -> list[RepeatedClaim]:
    repeated: dict[RepeatedClaim, None] = {}
    for event in finished:
        if event.status == RunStatus.FAILED or len(set(event.claim_ids)) == len(event.claim_ids):
            continue
        seen: set[str] = set()
        for claim_id in event.claim_ids:
            if claim_id in seen:
                repeated[RepeatedClaim(event.org_id, claim_id, event.run_id)] = None
            seen.add(claim_id)
    return list(repeated)


def _alert(run: RunKey, double_exports: RunDoubleExports, trace: TraceContext | None) -> NewAlert:
    found_by = DoubleExportFoundBy.REPEATED_IN_RUN
    if double_exports.earlier_run_ids:
        found_by = DoubleExportFoundBy.ANOTHER_RUN
    return NewAlert(
        event_id=uuid4(),
        org_id=run.org_id,
        run_id=run.run_id,
        claim_count=len(double_exports.claim_ids),
        claim_ids=joined(sorted(double_exports.claim_ids)[:ALERT_CLAIMS_MAX]),
        earlier_run_ids=joined(map(str, list(double_exports.earlier_run_ids)[:ALERT_EARLIER_RUNS_MAX])),
        found_by=found_by,
        traceparent=trace and trace.traceparent,
        tracestate=trace and trace.tracestate,
    )


async def list_double_exports(connection: Connection, request: ListDoubleExports) -> DoubleExports:
    """One page. Raises RequestRefused (INVALID_REQUEST) for a cursor of another list.

    A claim keeps its place in the list, whatever happens to it. So the pages together show every double export that
    was there when the first was read, once, and none is skipped because its transaction committed late.
    """
    scope = scope_of(request)
    page = DoubleExportsPage(
        org_id=request.org_id,
        above_claim_id="" if request.cursor is None else decode_claim_cursor(request.cursor, scope),
        resolved=request.resolved,
        limit=request.limit + 1,  # one more tells whether there is a next page
    )
    rows = await connection.fetch(sql.query("list_double_exports"), *page)
    records = rows[: request.limit]
    search = DoubleExportRunsSearch(
        org_id=request.org_id,
        claim_ids=joined(row["claim_id"] for row in records),
        counted_max=DOUBLE_EXPORT_RUNS_COUNTED_MAX + 1,  # one more tells that there are too many to count
        shown_max=DOUBLE_EXPORT_RUNS_MAX,
    )
    runs = await _runs_of(connection, search)
    next_cursor = encode_claim_cursor(records[-1]["claim_id"], scope) if len(rows) > request.limit else None
    return DoubleExports(
        double_exports=[_double_export(row, runs[row["claim_id"]], row["claim_id"]) for row in records],
        next_cursor=next_cursor,
    )


async def resolve_double_export(
    connection: Connection, request: ResolveDoubleExport, until_s: float = math.inf
) -> DoubleExport:
    """Note that somebody has dealt with it. Raises RequestRefused (DOUBLE_EXPORT_NOT_FOUND, CONFLICT)."""
    async with transaction(connection, until_s):
        # No run joins it meanwhile: so the log has the resolution and the runs in the order in which they took effect.
        await lock_runs_and_claims(connection, [], [(request.org_id, [request.claim_id])])
        record = await connection.fetchrow(sql.query("get_double_export_for_update"), request.org_id, request.claim_id)
        if record is None:
            raise RequestRefused(ErrorCode.DOUBLE_EXPORT_NOT_FOUND, "there is no such double export")
        search = DoubleExportRunsSearch(request.org_id, request.claim_id, counted_max=None, shown_max=None)
        runs = (await _runs_of(connection, search))[request.claim_id]
        if request.run_count not in (None, runs["run_count"]):
            raise conflict("runCount", f"is {runs['run_count']} now")
        if record["resolved_at"] is not None:
            if (record["resolved_by"], record["note"]) != (request.resolved_by, request.note):
                raise conflict("claimId", "is resolved already, by somebody else or with another note")
            return _double_export(record, runs, request.claim_id)
        now = record["now"]
        payload = {
            "orgId": request.org_id,
            "claimId": request.claim_id,
            "resolvedBy": request.resolved_by,
            "note": request.note,
            "runIds": [str(run_id) for run_id in runs["run_ids"]],
        }
        await log_write(
            connection,
            EventType.DOUBLE_EXPORT_RESOLVED,
            "request",
            None,
            request.org_id,
            now,
            json.dumps(payload),
        )
        resolution = Resolution(request.org_id, request.claim_id, now, request.resolved_by, request.note)
        resolved = await connection.fetchrow(sql.query("resolve_double_export"), *resolution)
        assert resolved is not None
        return _double_export(resolved, runs, request.claim_id)


async def _runs_of(connection: Connection, search: DoubleExportRunsSearch) -> dict[str, Record]:
    """The runs of double exports, by claim."""
    return {row["claim_id"]: row for row in await connection.fetch(sql.query("find_runs_of_double_exports"), *search)}


def _double_export(record: Record, runs: Record, claim_id: str) -> DoubleExport:
    """A record as a result, with the claim id in the spelling of the request."""
    columns = runs["run_ids"], runs["statuses"], runs["finish_times"], runs["reversal_times"]
    shown = list(zip(*columns, strict=True))[:DOUBLE_EXPORT_RUNS_MAX]
    run_count = runs["run_count"]
    return DoubleExport(
        org_id=record["org_id"],
        claim_id=spelling_of(claim_id),
        runs=[
            DoubleExportRun(run_id, RunStatus(status), finished_at, reversed_at)
            for run_id, status, finished_at, reversed_at in shown
        ],
        run_count=run_count if run_count <= DOUBLE_EXPORT_RUNS_COUNTED_MAX else None,
        repeated_in_runs=runs["repeated_in_run_ids"][:DOUBLE_EXPORT_RUNS_MAX],
        detected_at=record["detected_at"],
        last_joined_at=record["last_joined_at"],
        ended_at=runs["ended_at"] if run_count <= DOUBLE_EXPORT_RUNS_COUNTED_MAX else None,
        resolved_at=record["resolved_at"],
        resolved_by=record["resolved_by"],
        note=record["note"],
    )
