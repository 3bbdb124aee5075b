"""An export: a run that reserves its claims, pays no claim twice, and forgets nothing that it paid."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from pydantic_core import to_json

from .calls import built
from .delivery import Delivery
from .lease import RENEW_AT, Lease, clock_s
from .reports import EndFacts, RunEnd, encoded, error_of, now, run_finished
from .schema.claim_ids import canonical_claim_id
from .schema.events import RUN_CREATED, SCHEMA_VERSION, FinishedFacts, RunCreated, RunStatus
from .schema.fields import Artifact, ClaimDetails, ControlTotal, SkippedClaim
from .schema.limits import BODY_BYTES_MAX
from .schema.requests import ReservationMode, ReserveClaims
from .schema.results import ClaimConflict, ReservedClaims
from .spool import ClaimRecord, Outcome

CLAIMS_BYTES_MAX: Final = BODY_BYTES_MAX * 3 // 4
"""The ids of the claims of one export, as JSON: with everything else they must fit into one body."""

EXPORT: Final = "export"
"""What errors call it."""

Reserve = Callable[[ReserveClaims, float], Awaitable[ReservedClaims]]
"""Sends a reservation and waits at most so many seconds for its result."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export is about to do. Without a `reservation` it reserves nothing. The claims are those asked for."""

    created: RunCreated
    claim_ids: list[str]
    reservation: ReserveClaims | None


class Export:
    """A run that is going on. Made by `ExportRuns.export`.

    For each claim: `paying` before the money moves, then `exported`, or `skipped`. Each is on the disk when it returns.
    """

    def __init__(self, plan: ExportPlan, delivery: Delivery) -> None:
        self._plan = plan
        self._delivery = delivery
        self._lease: Lease | None = None
        self._records: dict[str, ClaimRecord] = {}
        self._facts = EndFacts()
        self.run_id: UUID = plan.created.run_id
        """The id of the run."""
        self.granted: list[str] = [] if plan.reservation else plan.claim_ids
        """The claims that may be exported, in the order and the spelling asked for."""
        self.conflicts: list[ClaimConflict] = []
        """Why the other claims may not."""
        self.fencing_token: int | None = None
        """Goes along with each claim, for an accounting system that refuses a smaller one. None without a grant."""

    def check_lease(self) -> None:
        """Raises LeaseLost if nothing more may be paid. `paying` does this, too."""
        if self._lease is not None:
            self._lease.check()

    async def paying(self, *claim_ids: str) -> None:
        """Note on the disk that these claims are about to be paid: from here on they may be out.

        If the process dies now, they are reported as exported and in doubt, never as failed. May be repeated for a
        payment that is tried again. Raises LeaseLost, and ValueError for a claim that is not granted or is out already:
        then do not pay.
        """
        self.check_lease()
        granted = {canonical_claim_id(claim_id) for claim_id in self.granted}
        for claim_id in claim_ids:
            if canonical_claim_id(claim_id) not in granted:
                raise ValueError(f"claim {claim_id} is not granted to this export")
            if self._is(Outcome.EXPORTED, claim_id):
                raise ValueError(f"claim {claim_id} is exported already")
        records = [ClaimRecord(claim_id, Outcome.IN_DOUBT) for claim_id in claim_ids]
        await self._write_to_disk(records)
        self.check_lease()  # the disk may have been slow
        self._remember(records)

    async def exported(
        self,
        *claim_ids: str,
        voucher_id: str | None = None,
        voucher_url: str | None = None,
        amount: str | None = None,
        currency: str | None = None,
    ) -> None:
        """Note on the disk that these claims are out, with what the accounting system made of each.

        They count as exported whatever is raised: InvalidRequest if the details are not valid, ValueError if `paying`
        was not called before, which a crash would have made a forgotten payment.
        """
        announced = all(self._is(Outcome.IN_DOUBT, claim_id) for claim_id in claim_ids)
        self._remember([ClaimRecord(claim_id, Outcome.EXPORTED) for claim_id in claim_ids])
        try:
            given = {"voucher_id": voucher_id, "voucher_url": voucher_url, "amount": amount, "currency": currency}
            if any(value is not None for value in given.values()):
                for claim_id in claim_ids:
                    details = built(EXPORT, ClaimDetails, claim_id=claim_id, **given)
                    text = details.model_dump_json(exclude_none=True)
                    self._remember([ClaimRecord(claim_id, Outcome.EXPORTED, text)])
        finally:
            await self._write_to_disk([self._records[canonical_claim_id(claim_id)] for claim_id in claim_ids])
        if not announced:
            raise ValueError("call paying() before a claim is paid, and exported() once after it")

    async def skipped(self, claim_id: str, reason: str, *, code: str | None = None) -> None:
        """Note on the disk that a claim is not exported, and why; `code` is a short reason for machines.

        Also for a claim that was announced by `paying`, if the accounting system has refused it. Raises ValueError for
        a claim that is out, and InvalidRequest.
        """
        if self._is(Outcome.EXPORTED, claim_id):
            raise ValueError(f"claim {claim_id} is exported already")
        skipped = built(EXPORT, SkippedClaim, claim_id=claim_id, reason=reason, code=code)
        record = ClaimRecord(claim_id, Outcome.SKIPPED, skipped.model_dump_json())
        self._remember([record])
        await self._write_to_disk([record])

    async def note(
        self,
        *,
        artifact: Artifact | None = None,
        external_ack_id: str | None = None,
        totals: Sequence[ControlTotal] | None = None,
    ) -> None:
        """Note on the disk what else is to be told at the end: the file, the ledger's receipt, the control totals.

        It replaces what was noted before. Raises InvalidRequest.
        """
        given = {"artifact": artifact, "external_ack_id": external_ack_id, "totals": totals}
        self._facts = built(EXPORT, EndFacts, **given)
        spool = self._delivery.spool
        await spool.do(spool.write_facts, self.run_id, self._facts.model_dump_json())

    @asynccontextmanager
    async def lasting(self, reserve: Reserve) -> AsyncIterator[None]:
        """Announce the run, reserve, keep the lease, and end the run, however the block ends."""
        spool, created = self._delivery.spool, self._plan.created
        await spool.do(spool.begin_run, self.run_id, created.org_id, RUN_CREATED, encoded(created))
        self._delivery.wake()
        try:
            if self._plan.reservation is None:
                yield
            else:
                async with self._reserved(self._plan.reservation, reserve):
                    yield
        except BaseException as error:
            await self._end(error)
            raise
        await self._end(None)

    @asynccontextmanager
    async def _reserved(self, request: ReserveClaims, reserve: Reserve) -> AsyncIterator[None]:
        asked_at_s = clock_s()  # the lease begins later than this, never earlier
        reserved = await reserve(request, request.ttl_seconds * RENEW_AT)
        self.granted, self.conflicts = reserved.granted, reserved.conflicts
        self.fencing_token = reserved.fencing_token
        if not reserved.granted:
            yield
            return
        # All or nothing, and nothing is taken back: if another run has a claim of it by now, the lease is lost.
        renewal = request.model_copy(
            update={"claim_ids": reserved.granted, "mode": ReservationMode.ALL_OR_NOTHING, "take_expired": False}
        )
        self._lease = Lease(reserved, asked_at_s, request.ttl_seconds)
        async with self._lease.kept(lambda timeout_s: reserve(renewal, timeout_s)):
            yield

    async def _end(self, error: BaseException | None) -> None:
        settled = {Outcome.EXPORTED, Outcome.SKIPPED}
        asked = {canonical_claim_id(claim_id) for claim_id in self._plan.claim_ids}
        done = {key for key, record in self._records.items() if record.outcome in settled}
        end = RunEnd(
            run_id=self.run_id,
            org_id=self._plan.created.org_id,
            occurred_at=now(),
            claims=self._records.values(),
            complete=error is None and asked <= done,
            error=None if error is None else error_of(error),
            facts=self._facts,
            refused=[_refused(each) for each in self.conflicts if canonical_claim_id(each.claim_id) not in done],
        )
        await self._delivery.end_run(self.run_id, end.org_id, encoded(run_finished(end)))

    def _is(self, outcome: Outcome, claim_id: str) -> bool:
        record = self._records.get(canonical_claim_id(claim_id))
        return record is not None and record.outcome is outcome

    def _remember(self, records: Iterable[ClaimRecord]) -> None:
        self._records.update({canonical_claim_id(record.claim_id): record for record in records})

    async def _write_to_disk(self, records: Sequence[ClaimRecord]) -> None:
        spool = self._delivery.spool
        canonical = [ClaimRecord(canonical_claim_id(each.claim_id), each.outcome, each.details) for each in records]
        await spool.do(spool.write_claims, self.run_id, canonical)


def planned(
    claim_ids: Iterable[str],
    *,
    reserve: bool,
    lease_s: int,
    mode: ReservationMode,
    take_expired: bool,
    **created: Any,
) -> ExportPlan:
    """The plan of a new run. Raises InvalidRequest, and ValueError if the claims do not fit into one event."""
    run_id = uuid4()
    distinct: dict[str, str] = {}
    for claim_id in claim_ids:
        distinct.setdefault(canonical_claim_id(claim_id), claim_id)
    claims = list(distinct.values())
    if len(to_json(claims)) > CLAIMS_BYTES_MAX:
        raise ValueError(f"the ids of the claims of one export have at most {CLAIMS_BYTES_MAX:,} bytes")
    event = built(
        EXPORT, RunCreated, event_id=uuid4(), schema_version=SCHEMA_VERSION, occurred_at=now(), run_id=run_id, **created
    )
    if not reserve:
        built(EXPORT, FinishedFacts, status=RunStatus.COMPLETED, claim_ids=claims)
        return ExportPlan(event, claims, None)
    reservation = built(
        EXPORT,
        ReserveClaims,
        org_id=event.org_id,
        run_id=run_id,
        claim_ids=claims,
        ttl_seconds=lease_s,
        mode=mode,
        override=event.override,
        take_expired=take_expired,
    )
    return ExportPlan(event, claims, reservation)


def _refused(conflict: ClaimConflict) -> SkippedClaim:
    reason = f"it is {conflict.reason} by run {conflict.run_id}"
    return SkippedClaim(claim_id=conflict.claim_id, reason=reason, code=conflict.reason.upper())
