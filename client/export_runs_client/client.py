"""Every operation of the service as a method."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Final, Self, TypedDict, TypeVar, Unpack
from uuid import UUID, uuid4

from .calls import built, call
from .connection import Connection, open_connection
from .delivery import Delivery, open_delivery
from .export import Export, planned
from .schema import operations
from .schema.events import ClaimOutcome, RunStatus, RunTrigger
from .schema.fields import Artifact, ClaimDetails, ControlTotal, Override, RunError, SkippedClaim, WireModel
from .schema.limits import (
    DOUBLE_EXPORTS_PAGE_DEFAULT,
    DOUBLE_EXPORTS_PAGE_MAX,
    FOUND_RUNS_MAX,
    HISTORY_PAGE_RUNS_DEFAULT,
    HISTORY_PAGE_RUNS_MAX,
    LEASE_TTL_S_DEFAULT,
    RUN_CLAIMS_PAGE_DEFAULT,
    RUN_CLAIMS_PAGE_MAX,
    TIMELINE_PAGE_ENTRIES_DEFAULT,
    TIMELINE_PAGE_ENTRIES_MAX,
)
from .schema.operations import Operation
from .schema.requests import ReservationMode, ReserveClaims
from .schema.results import (
    CheckedClaims,
    DoubleExport,
    DoubleExports,
    ExplainedClaim,
    ExportHistory,
    ExportRun,
    ExportRunWithClaims,
    FoundRuns,
    LastExport,
    PeriodRuns,
    ReleasedClaims,
    ReservedClaims,
    ReversedExport,
    RunClaim,
    RunClaimsPage,
    StaleRuns,
    TimelineEntry,
)

TIMEOUT_S: Final = 5.0
"""How long a call waits for its answer, if nothing else is said."""

Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)

Id = UUID | str
Day = date | str
Time = datetime | str


class HistoryFilters(TypedDict, total=False):
    """Which runs of the history are wanted; see `get-export-history` in the contract. Times have an offset."""

    status: RunStatus | None
    target_system: str | None
    created_from: Time | None
    created_to: Time | None
    include_deleted: bool
    format: str | None
    triggered_by: str | None
    external_ack_id: str | None
    scope: str | None
    trigger: RunTrigger | None
    has_conflict: bool | None
    period_from: Day | None
    period_to: Day | None


class CreatedRunFacts(TypedDict, total=False):
    """What may be told of a run when it starts; see `run-created` in the contract."""

    target_system: str | None
    period_start: Day | None
    period_end: Day | None
    retry_of_run_id: Id | None
    override: Override | None
    trigger: RunTrigger | None
    scope: str | None


class FinishedRunFacts(TypedDict, total=False):
    """What may be told of a run when it ends; see `run-finished` in the contract."""

    skipped_claims: Sequence[SkippedClaim]
    error: RunError | None
    artifact: Artifact | None
    external_ack_id: str | None
    totals: Sequence[ControlTotal]
    claim_details: Sequence[ClaimDetails]


class ExportRuns:
    """The service, over one connection. Any number of calls may be on their way at the same time.

    Each method is one operation of the contract and takes its fields, in snake_case. UUIDs, dates and times may be
    texts. Methods raise an ExportRunsError where there is no result: InvalidRequest, NoAnswer and so on.
    """

    def __init__(self, connection: Connection, delivery: Delivery | None, timeout_s: float) -> None:
        self._connection = connection
        self._delivery = delivery
        self.timeout_s = timeout_s
        """How long a call waits for its answer."""

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        *urls: str,
        spool: str | Path | None = None,
        timeout_s: float = TIMEOUT_S,
        name: str = "export-runs-client",
        user_id: str | None = None,
    ) -> AsyncIterator[Self]:
        """Connect to RabbitMQ, at one of these URLs, and again after each loss.

        It does not wait for the connection: each call does, as long as its time-out allows. RabbitMQ shows the
        connection under its `name`. `user_id` is the user of the URLs, where the service wants messages to name it:
        RabbitMQ refuses another one. `spool` is a folder that outlives the process, for `export`: what processes that
        have died left there is reported now.
        """
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(open_connection(urls, name, user_id))
            delivery = None
            if spool is not None:
                delivery = await stack.enter_async_context(open_delivery(connection, Path(spool), timeout_s))
            yield cls(connection, delivery, timeout_s)

    @asynccontextmanager
    async def export(
        self,
        org_id: str,
        triggered_by: str,
        format: str,
        claim_ids: Iterable[str],
        *,
        lease_s: int = LEASE_TTL_S_DEFAULT,
        mode: ReservationMode = ReservationMode.AVAILABLE,
        take_expired: bool = False,
        reserve: bool = True,
        **facts: Unpack[CreatedRunFacts],
    ) -> AsyncIterator[Export]:
        """Export claims (1 to 10,000) as one run, each at most once.

        It publishes `run-created`, reserves the claims, renews the lease, and publishes `run-finished`: completed if
        every claim was exported or skipped, partial if only some are out, failed if none is. If the lease can no longer
        be trusted, it cancels the block, which ends with LeaseLost. `override` allows claims that were exported before.
        Without `reserve` nothing prevents a double export: another program may export the same claims now.

        Raises InvalidRequest and SpoolFull before anything is done. Raises NoAnswer or RequestFailed where nothing is
        reserved, so nothing may be paid.
        """
        if self._delivery is None:
            raise ValueError("an export needs a spool: ExportRuns.connect(url, spool=folder)")
        plan = planned(
            claim_ids,
            reserve=reserve,
            lease_s=lease_s,
            mode=mode,
            take_expired=take_expired,
            org_id=org_id,
            triggered_by=triggered_by,
            format=format,
            **facts,
        )
        export = Export(plan, self._delivery)
        async with export.lasting(self._reserve):
            yield export

    async def call(
        self, operation: Operation[Request, Result], request: Request, timeout_s: float | None = None
    ) -> Result:
        """Send a request that is a model of the contract. The other methods call this one."""
        return await call(self._connection, operation, request, self.timeout_s if timeout_s is None else timeout_s)

    async def check_claims(self, org_id: str, claim_ids: Iterable[str]) -> CheckedClaims:
        """Which of these claims (1 to 10,000) have gone out, and which are reserved. Only `unexported` may go out."""
        return await self._call(operations.CHECK_CLAIMS, org_id=org_id, claim_ids=list(claim_ids))

    async def reserve_claims(
        self,
        org_id: str,
        run_id: Id,
        claim_ids: Iterable[str],
        *,
        ttl_seconds: int = LEASE_TTL_S_DEFAULT,
        mode: ReservationMode = ReservationMode.ALL_OR_NOTHING,
        override: Override | None = None,
        take_expired: bool = False,
    ) -> ReservedClaims:
        """Lease claims (1 to 10,000) to a run for so many seconds, or renew the lease.

        After an error other than Conflict, release them: they may have been granted. `export` does all this by itself.
        """
        return await self._call(
            operations.RESERVE_CLAIMS,
            org_id=org_id,
            run_id=run_id,
            claim_ids=list(claim_ids),
            ttl_seconds=ttl_seconds,
            mode=mode,
            override=override,
            take_expired=take_expired,
        )

    async def release_claims(self, org_id: str, run_id: Id, claim_ids: Iterable[str] | None = None) -> ReleasedClaims:
        """Free these claims that a run has reserved, or all of its claims."""
        given = None if claim_ids is None else list(claim_ids)
        return await self._call(operations.RELEASE_CLAIMS, org_id=org_id, run_id=run_id, claim_ids=given)

    async def find_runs_by_claim_id(
        self, claim_id: str, *, org_id: str | None = None, limit: int = FOUND_RUNS_MAX
    ) -> FoundRuns:
        """The newest runs that carried a claim, at most `limit` (1 to 1,000)."""
        return await self._call(operations.FIND_RUNS_BY_CLAIM_ID, claim_id=claim_id, org_id=org_id, limit=limit)

    async def explain_claim(
        self, org_id: str, claim_id: str, *, limit: int = TIMELINE_PAGE_ENTRIES_DEFAULT, cursor: str | None = None
    ) -> ExplainedClaim:
        """How a claim stands, because of what, and a page of at most `limit` (1 to 200) entries of its log."""
        return await self._call(operations.EXPLAIN_CLAIM, org_id=org_id, claim_id=claim_id, limit=limit, cursor=cursor)

    async def timeline(self, org_id: str, claim_id: str) -> AsyncIterator[TimelineEntry]:
        """All that the log has of a claim, oldest first."""
        cursor: str | None = None
        while True:
            page = await self.explain_claim(org_id, claim_id, limit=TIMELINE_PAGE_ENTRIES_MAX, cursor=cursor)
            for entry in page.timeline:
                yield entry
            if (cursor := page.next_cursor) is None:
                return

    async def get_export_run_by_id(self, run_id: Id, *, org_id: str | None = None) -> ExportRunWithClaims:
        """One run with its first claims. Raises RunNotFound."""
        return await self._call(operations.GET_EXPORT_RUN_BY_ID, run_id=run_id, org_id=org_id)

    async def list_run_claims(
        self,
        run_id: Id,
        *,
        org_id: str | None = None,
        limit: int = RUN_CLAIMS_PAGE_DEFAULT,
        cursor: str | None = None,
        outcome: ClaimOutcome | None = None,
    ) -> RunClaimsPage:
        """A page of the claims of a run, at most `limit` (1 to 10,000). Raises RunNotFound."""
        return await self._call(
            operations.LIST_RUN_CLAIMS, run_id=run_id, org_id=org_id, limit=limit, cursor=cursor, outcome=outcome
        )

    async def run_claims(
        self, run_id: Id, *, org_id: str | None = None, outcome: ClaimOutcome | None = None
    ) -> AsyncIterator[RunClaim]:
        """All claims of a run, in the order of their ids. Raises RunNotFound."""
        cursor: str | None = None
        while True:
            page = await self.list_run_claims(
                run_id, org_id=org_id, limit=RUN_CLAIMS_PAGE_MAX, cursor=cursor, outcome=outcome
            )
            for claim in page.claims:
                yield claim
            if (cursor := page.next_cursor) is None:
                return

    async def get_export_history(
        self,
        org_id: str,
        *,
        limit: int = HISTORY_PAGE_RUNS_DEFAULT,
        offset: int | None = None,
        cursor: str | None = None,
        **filters: Unpack[HistoryFilters],
    ) -> ExportHistory:
        """A page of an organisation's runs, newest first, at most `limit` (1 to 200)."""
        return await self._call(
            operations.GET_EXPORT_HISTORY, org_id=org_id, limit=limit, offset=offset, cursor=cursor, **filters
        )

    async def history(self, org_id: str, **filters: Unpack[HistoryFilters]) -> AsyncIterator[ExportRun]:
        """An organisation's runs, newest first. It asks for the next 200 when the last are used up."""
        cursor: str | None = None
        while True:
            page = await self.get_export_history(org_id, limit=HISTORY_PAGE_RUNS_MAX, cursor=cursor, **filters)
            for run in page.runs:
                yield run
            if (cursor := page.next_cursor) is None:
                return

    async def check_period(
        self,
        org_id: str,
        period_start: Day,
        period_end: Day,
        *,
        target_system: str | None = None,
        scope: str | None = None,
    ) -> PeriodRuns:
        """The runs that may have exported something of a period, newest first. Both its days count."""
        return await self._call(
            operations.CHECK_PERIOD,
            org_id=org_id,
            period_start=period_start,
            period_end=period_end,
            target_system=target_system,
            scope=scope,
        )

    async def get_last_export(
        self, org_id: str, *, target_system: str | None = None, scope: str | None = None
    ) -> LastExport:
        """The run that was the last to export something."""
        return await self._call(operations.GET_LAST_EXPORT, org_id=org_id, target_system=target_system, scope=scope)

    async def list_stale_runs(
        self,
        older_than_seconds: int,
        *,
        org_id: str | None = None,
        limit: int = HISTORY_PAGE_RUNS_DEFAULT,
        cursor: str | None = None,
    ) -> StaleRuns:
        """A page of runs that started so long ago and have not ended, oldest first, at most `limit` (1 to 200)."""
        return await self._call(
            operations.LIST_STALE_RUNS,
            older_than_seconds=older_than_seconds,
            org_id=org_id,
            limit=limit,
            cursor=cursor,
        )

    async def stale_runs(self, older_than_seconds: int, *, org_id: str | None = None) -> AsyncIterator[ExportRun]:
        """All runs that started so long ago and have not ended, oldest first."""
        cursor: str | None = None
        while True:
            page = await self.list_stale_runs(
                older_than_seconds, org_id=org_id, limit=HISTORY_PAGE_RUNS_MAX, cursor=cursor
            )
            for run in page.runs:
                yield run
            if (cursor := page.next_cursor) is None:
                return

    async def create_export_run(
        self,
        org_id: str,
        triggered_by: str,
        format: str,
        *,
        run_id: Id | None = None,
        **facts: Unpack[CreatedRunFacts],
    ) -> ExportRun:
        """Record that a run has started. Without a `run_id` the client makes one, so that the call can be repeated."""
        return await self._call(
            operations.CREATE_EXPORT_RUN,
            org_id=org_id,
            triggered_by=triggered_by,
            format=format,
            run_id=run_id or uuid4(),
            **facts,
        )

    async def update_export_run_status(
        self,
        run_id: Id,
        status: RunStatus,
        claim_ids: Iterable[str],
        *,
        org_id: str | None = None,
        **facts: Unpack[FinishedRunFacts],
    ) -> ExportRun:
        """Record that a run has ended. Raises Conflict where something else is stored."""
        return await self._call(
            operations.UPDATE_EXPORT_RUN_STATUS,
            run_id=run_id,
            status=status,
            claim_ids=list(claim_ids),
            org_id=org_id,
            **facts,
        )

    async def delete_export_run(
        self, run_id: Id, deleted_by: str, reason: str, *, org_id: str | None = None
    ) -> ExportRun:
        """Hide a run from the history. What it exported stays exported. Raises Conflict while it holds claims."""
        return await self._call(
            operations.DELETE_EXPORT_RUN, run_id=run_id, deleted_by=deleted_by, reason=reason, org_id=org_id
        )

    async def reverse_export(
        self,
        org_id: str,
        run_id: Id,
        reason: str,
        reversed_by: str,
        approved_by: str,
        *,
        claim_ids: Iterable[str] | None = None,
        external_reversal_id: str | None = None,
    ) -> ReversedExport:
        """Take back what a run exported: these claims, or all of them. Raises Conflict for what it has not exported."""
        return await self._call(
            operations.REVERSE_EXPORT,
            org_id=org_id,
            run_id=run_id,
            claim_ids=None if claim_ids is None else list(claim_ids),
            reason=reason,
            reversed_by=reversed_by,
            approved_by=approved_by,
            external_reversal_id=external_reversal_id,
        )

    async def list_double_exports(
        self,
        org_id: str,
        *,
        limit: int = DOUBLE_EXPORTS_PAGE_DEFAULT,
        cursor: str | None = None,
        resolved: bool | None = None,
    ) -> DoubleExports:
        """A page of an organisation's double exports, at most `limit` (1 to 200)."""
        return await self._call(
            operations.LIST_DOUBLE_EXPORTS, org_id=org_id, limit=limit, cursor=cursor, resolved=resolved
        )

    async def double_exports(self, org_id: str, *, resolved: bool | None = None) -> AsyncIterator[DoubleExport]:
        """All double exports of an organisation, in the order of the claim ids."""
        cursor: str | None = None
        while True:
            page = await self.list_double_exports(
                org_id, limit=DOUBLE_EXPORTS_PAGE_MAX, cursor=cursor, resolved=resolved
            )
            for double_export in page.double_exports:
                yield double_export
            if (cursor := page.next_cursor) is None:
                return

    async def resolve_double_export(
        self, org_id: str, claim_id: str, resolved_by: str, note: str, *, run_count: int | None = None
    ) -> DoubleExport:
        """Note that somebody has dealt with a double export. Without the `run_count` seen it is sent once only."""
        return await self._call(
            operations.RESOLVE_DOUBLE_EXPORT,
            org_id=org_id,
            claim_id=claim_id,
            resolved_by=resolved_by,
            note=note,
            run_count=run_count,
        )

    async def _reserve(self, request: ReserveClaims, timeout_s: float) -> ReservedClaims:
        return await self.call(operations.RESERVE_CLAIMS, request, min(timeout_s, self.timeout_s))

    async def _call(self, operation: Operation[Request, Result], **fields: object) -> Result:
        return await self.call(operation, built(operation.name, operation.request, **fields))
