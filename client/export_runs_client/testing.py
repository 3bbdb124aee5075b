"""A double of the service for unit tests: no RabbitMQ, no database, and a clock that the test moves.

It plays the operations that exporters and guards use: `check-claims`, `reserve-claims`, `release-claims`,
`create-export-run`, `update-export-run-status`, `get-export-run-by-id`, `get-export-history` (without filters and
cursors), `find-runs-by-claim-id`, and both events. Any other one raises NotImplementedError in the test.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from .client import TIMEOUT_S, ExportRuns
from .connection import Connection
from .delivery import open_delivery
from .links import Link
from .schema.claim_ids import by_spelling, canonical_claim_id
from .schema.decoding import InvalidBody, decode
from .schema.errors import ErrorCode
from .schema.events import EVENTS, ClaimOutcome, RunCreated, RunFinished, RunStatus
from .schema.fields import WireModel
from .schema.operations import OPERATIONS
from .schema.replies import encode_error_reply, encode_ok_reply
from .schema.requests import (
    CheckClaims,
    CreateExportRun,
    FindRunsByClaimId,
    GetExportHistory,
    GetExportRunById,
    ReleaseClaims,
    ReservationMode,
    ReserveClaims,
    UpdateExportRunStatus,
)
from .schema.results import (
    CheckedClaims,
    ClaimConflict,
    ConflictReason,
    ExportedBy,
    ExportedClaim,
    ExportHistory,
    ExportRun,
    ExportRunOfClaim,
    ExportRunWithClaims,
    FoundRuns,
    PendingEvents,
    ReleasedClaims,
    ReservedClaim,
    ReservedClaims,
)

REQUESTS: Final = {operation.name: operation.request for operation in OPERATIONS}


class _Refused(Exception):
    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class _Lease:
    run_id: UUID
    expires_at: datetime
    token: int


@dataclass(slots=True)
class _Run:
    run_id: UUID
    org_id: str
    created_at: datetime
    created: RunCreated | CreateExportRun | None = None
    finished: RunFinished | UpdateExportRunStatus | None = None
    finished_at: datetime | None = None

    @property
    def status(self) -> RunStatus:
        return RunStatus.PENDING if self.finished is None else self.finished.status

    def outcomes(self) -> dict[str, ClaimOutcome]:
        """What the run did with each claim, by canonical id."""
        if self.finished is None:
            return {}
        failed = self.finished.status is RunStatus.FAILED
        outcome = ClaimOutcome.ATTEMPTED if failed else ClaimOutcome.EXPORTED
        skipped = {canonical_claim_id(each.claim_id): ClaimOutcome.SKIPPED for each in self.finished.skipped_claims}
        return {**skipped, **{canonical_claim_id(claim): outcome for claim in self.finished.claim_ids}}


@dataclass
class ServiceDouble:
    """The service in the memory of a test. `now` is its clock: it stands still until `advance` moves it."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    is_silent: bool = False
    """Nobody answers, and no event is confirmed."""

    events: list[RunCreated | RunFinished] = field(default_factory=list)
    """The events that were published, each once."""

    _errors: list[ErrorCode] = field(default_factory=list)
    _runs: dict[UUID, _Run] = field(default_factory=dict)
    _leases: dict[tuple[str, str], _Lease] = field(default_factory=dict)
    _tokens: int = 0

    def advance(self, seconds: float) -> None:
        """Move the clock. Leases that end meanwhile have expired."""
        self.now += timedelta(seconds=seconds)

    def fail_next(self, *codes: ErrorCode) -> None:
        """The next requests are answered with these errors, one each."""
        self._errors += codes

    @asynccontextmanager
    async def connect(
        self, *, spool: str | Path | None = None, timeout_s: float = TIMEOUT_S
    ) -> AsyncIterator[ExportRuns]:
        """A client of this service. Each has all methods of `ExportRuns.connect(...)`; any number may be open."""
        connection = _Connection(self)
        async with AsyncExitStack() as stack:
            delivery = None
            if spool is not None:
                delivery = await stack.enter_async_context(open_delivery(connection, Path(spool), timeout_s))
            yield ExportRuns(connection, delivery, timeout_s)

    def take_event(self, event_type: str, body: bytes) -> None:
        """Take an event as the service would. One that was taken before changes nothing."""
        event = decode(EVENTS[event_type], body)
        if event.event_id not in {each.event_id for each in self.events}:
            self.events.append(event)
            self._store(event, event.run_id, event.org_id, event.occurred_at)

    def answer(self, operation: str, body: bytes) -> bytes:
        """The body of the reply to a request. Raises NotImplementedError for an operation that is not played."""
        if self._errors:
            return encode_error_reply(self._errors.pop(0), "a test wants this error")
        try:
            return encode_ok_reply(self._result(decode(REQUESTS[operation], body)))
        except InvalidBody as invalid:
            return encode_error_reply(ErrorCode.INVALID_REQUEST, "the request is not valid", *invalid.details)
        except _Refused as refused:
            return encode_error_reply(refused.code, str(refused))

    def _result(self, request: WireModel) -> WireModel:
        match request:
            case CheckClaims():
                return self._check(request)
            case ReserveClaims():
                return self._reserve(request)
            case ReleaseClaims():
                return self._release(request)
            case CreateExportRun():
                run = self._store(request, request.run_id or uuid4(), request.org_id, self.now)
                return ExportRun(**_facts(run))
            case UpdateExportRunStatus():
                return ExportRun(**_facts(self._update(request)))
            case GetExportRunById():
                run = self._known(request.run_id, request.org_id)
                skipped = [] if run.finished is None else run.finished.skipped_claims
                claims = sorted(claim for claim, each in run.outcomes().items() if each is not ClaimOutcome.SKIPPED)
                return ExportRunWithClaims(**_facts(run), claim_ids=claims, skipped_claims=skipped, claim_overrides=[])
            case GetExportHistory():
                if request.model_fields_set - {"org_id", "limit", "include_deleted"}:
                    raise NotImplementedError("the double plays get-export-history without filters and cursors")
                runs = [ExportRun(**_facts(run)) for run in self._newest(request.org_id)]
                return ExportHistory(runs=runs[: request.limit], next_cursor=None, total=len(runs))
            case FindRunsByClaimId():
                return self._find(request)
            case _:
                raise NotImplementedError(f"the double does not play {type(request).__name__}")

    def _store(
        self,
        facts: RunCreated | RunFinished | CreateExportRun | UpdateExportRunStatus,
        run_id: UUID,
        org_id: str,
        at: datetime,
    ) -> _Run:
        run = self._runs.setdefault(run_id, _Run(run_id, org_id, at))
        if isinstance(facts, RunCreated | CreateExportRun):
            if run.created is None:
                run.created, run.created_at = facts, at
        elif run.finished is None:
            run.finished, run.finished_at = facts, at
            self._leases = {claim: lease for claim, lease in self._leases.items() if lease.run_id != run_id}
        return run

    def _update(self, request: UpdateExportRunStatus) -> _Run:
        run = self._known(request.run_id, request.org_id)
        if run.finished is None:
            return self._store(request, run.run_id, run.org_id, self.now)
        stored = run.finished
        if (stored.status, set(stored.claim_ids)) != (request.status, set(request.claim_ids)):
            raise _Refused(ErrorCode.CONFLICT, "the run has ended otherwise")
        return run

    def _known(self, run_id: UUID, org_id: str | None) -> _Run:
        run = self._runs.get(run_id)
        if run is None or org_id not in (None, run.org_id):
            raise _Refused(ErrorCode.RUN_NOT_FOUND, "there is no such run")
        return run

    def _exporters(self, org_id: str, claim: str) -> list[_Run]:
        found = [
            run
            for run in self._runs.values()
            if run.org_id == org_id and run.outcomes().get(claim) is ClaimOutcome.EXPORTED
        ]
        return sorted(found, key=lambda run: run.finished_at or run.created_at)

    def _check(self, request: CheckClaims) -> CheckedClaims:
        result = CheckedClaims(
            exported=[],
            reserved=[],
            unexported=[],
            as_of=self.now,
            pending_events=PendingEvents(count=0, as_of=self.now),
        )
        for spelling in by_spelling(request.claim_ids):
            claim = canonical_claim_id(spelling)
            lease = self._leases.get((request.org_id, claim))
            if runs := self._exporters(request.org_id, claim):
                by = [ExportedBy(run.run_id, run.status, run.finished_at or run.created_at) for run in runs]
                result.exported.append(ExportedClaim(spelling, by))
            elif lease is not None:
                result.reserved.append(ReservedClaim(spelling, lease.run_id, lease.expires_at))
            else:
                result.unexported.append(spelling)
        return result

    def _reserve(self, request: ReserveClaims) -> ReservedClaims:
        if request.override is not None:
            raise NotImplementedError("the double plays reserve-claims without an override")
        run = self._runs.get(request.run_id)
        if run is not None and run.finished is not None:
            raise _Refused(ErrorCode.CONFLICT, "the run has ended")
        claims = list(by_spelling(request.claim_ids))
        conflicts = [each for claim in claims if (each := self._conflict(request, claim))]
        refused = {each.claim_id for each in conflicts}
        granted = [claim for claim in claims if claim not in refused]
        if not granted or (conflicts and request.mode is ReservationMode.ALL_OR_NOTHING):
            return ReservedClaims(granted=[], conflicts=conflicts, expires_at=None, fencing_token=None)
        keys = [(request.org_id, canonical_claim_id(claim)) for claim in granted]
        held = [self._leases.get(key) for key in keys]
        tokens = {each.token if each is not None and each.run_id == request.run_id else None for each in held}
        [token] = tokens if len(tokens) == 1 else {None}
        if token is None:
            self._tokens += 1
            token = self._tokens
        ends = self.now + timedelta(seconds=request.ttl_seconds)
        self._leases |= {key: _Lease(request.run_id, ends, token) for key in keys}
        return ReservedClaims(granted=granted, conflicts=conflicts, expires_at=ends, fencing_token=token)

    def _conflict(self, request: ReserveClaims, spelling: str) -> ClaimConflict | None:
        claim = canonical_claim_id(spelling)
        if runs := self._exporters(request.org_id, claim):
            return ClaimConflict(spelling, ConflictReason.EXPORTED, runs[0].run_id, None)
        lease = self._leases.get((request.org_id, claim))
        if lease is None or lease.run_id == request.run_id:
            return None
        if lease.expires_at > self.now:
            return ClaimConflict(spelling, ConflictReason.RESERVED, lease.run_id, lease.expires_at)
        if request.take_expired:
            return None
        return ClaimConflict(spelling, ConflictReason.EXPIRED, lease.run_id, lease.expires_at)

    def _release(self, request: ReleaseClaims) -> ReleasedClaims:
        named = None if request.claim_ids is None else {canonical_claim_id(each) for each in request.claim_ids}
        freed = [
            (org_id, claim)
            for (org_id, claim), lease in self._leases.items()
            if org_id == request.org_id and lease.run_id == request.run_id and (named is None or claim in named)
        ]
        for key in freed:
            del self._leases[key]
        return ReleasedClaims(released_count=len(freed))

    def _newest(self, org_id: str | None) -> list[_Run]:
        runs = [run for run in self._runs.values() if org_id in (None, run.org_id)]
        return sorted(runs, key=lambda run: run.created_at, reverse=True)

    def _find(self, request: FindRunsByClaimId) -> FoundRuns:
        claim = canonical_claim_id(request.claim_id)
        found = [
            ExportRunOfClaim(**_facts(run), claim_outcome=outcomes[claim])
            for run in self._newest(request.org_id)
            if claim in (outcomes := run.outcomes())
        ]
        return FoundRuns(runs=found[: request.limit], truncated=len(found) > request.limit)


def _facts(run: _Run) -> dict[str, Any]:
    created, finished = run.created, run.finished
    outcomes = run.outcomes().values()
    skipped = sum(each is ClaimOutcome.SKIPPED for each in outcomes)
    told = ("triggered_by", "format", "target_system", "period_start", "period_end", "trigger", "scope")
    return {
        **{name: getattr(created, name, None) for name in (*told, "retry_of_run_id", "override")},
        "run_id": run.run_id,
        "org_id": run.org_id,
        "status": run.status,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
        "claim_count": len(outcomes) - skipped,
        "skipped_count": skipped,
        "error": None if finished is None or finished.error is None else finished.error.model_dump(),
        "artifact": getattr(finished, "artifact", None),
        "external_ack_id": getattr(finished, "external_ack_id", None),
        "deleted_at": None,
        "deleted_by": None,
        "has_conflict": False,
        "totals": getattr(finished, "totals", []),
    }


class _Link(Link):
    """A link to a double."""

    def __init__(self, service: ServiceDouble) -> None:
        self._service = service
        self.lost = asyncio.get_running_loop().create_future()

    async def ask(self, operation: str, body: bytes, expiration_s: float, confirmed: asyncio.Event) -> bytes:
        confirmed.set()
        if self._service.is_silent:
            await asyncio.sleep(expiration_s * 2)  # who asks gives up before
        return self._service.answer(operation, body)

    async def publish_event(self, event_type: str, org_id: str, body: bytes) -> None:
        while self._service.is_silent:
            await asyncio.sleep(0.01)
        self._service.take_event(event_type, body)


class _Connection(Connection):
    """A connection that always has its link."""

    def __init__(self, service: ServiceDouble) -> None:
        super().__init__((), "a test", None)
        self._double = _Link(service)

    async def link(self) -> Link:
        return self._double
