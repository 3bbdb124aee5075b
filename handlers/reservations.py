"""Leases on claims: the guard's question, and for how long its answer holds, in one atomic step.

Leases are no part of what the events say: they stand beside it, and go by the database's clock. A lease that has
expired still stands in the way, because its holder may be slow and still paying: until the holder's run fails, the
holder releases it, or another run takes it and says so.
"""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias, assert_never
from uuid import UUID

import sql
from schema.claim_ids import by_spelling
from schema.errors import ErrorCode
from schema.events import RunStatus
from schema.operations import RESERVE_CLAIMS
from schema.requests import ReleaseClaims, ReservationMode, ReserveClaims
from schema.results import ClaimConflict, ConflictReason, ExportedBy, ReleasedClaims, ReservedClaims
from sql.connection import Connection, transaction

from .claim_standing import ClaimStanding, Lease, claim_standing
from .errors import RequestRefused, conflict
from .event_log import EventType, log_write
from .locking import lock_runs, lock_runs_and_claims
from .query_arguments import (
    LeaseWrite,
    OverriddenClaim,
    OverrideGrant,
    ReversalGrant,
    ReversedClaim,
    RunKey,
    column_arrays,
    joined,
)


@dataclass(slots=True)
class Grant:
    """A claim that a run may export: although these runs exported it, and in place of this lease.

    `reversed_run_ids` are the runs whose export had been taken back when the run got the claim. A run that has the
    claim already may have exported it before that.
    """

    claim_id: str
    exports: Sequence[ExportedBy]
    lease: Lease | None
    reversed_run_ids: Sequence[UUID] = ()


Decision: TypeAlias = Grant | ClaimConflict
"""What a reservation comes to for one claim."""


@dataclass(slots=True)
class Reservation:
    """What a reservation comes to, each list in the request's order."""

    grants: list[Grant] = field(default_factory=list)
    conflicts: list[ClaimConflict] = field(default_factory=list)


async def reserve_claims(connection: Connection, request: ReserveClaims, until_s: float = math.inf) -> ReservedClaims:
    """Grant claims to a run that is about to export them, and refuse those that another run has or had.

    Of any number of reservations of a claim at one time exactly one is granted. A claim that the request names in two
    spellings is decided once, and the result has both. Repeating a reservation renews its lease and keeps its token.

    Raises RequestRefused: CONFLICT for a run that has finished, is deleted or was purged, RESULT_TOO_LARGE for claims
    that very many runs have exported, UNAVAILABLE for some time after the database was restored. Raises TooLate, and
    grants nothing, after `until_s` by the event loop's clock.
    """
    claim_ids = list(dict.fromkeys(request.claim_ids))
    async with transaction(connection, until_s):
        await lock_runs_and_claims(connection, [request.run_id], [(request.org_id, claim_ids)])
        await _check_run(connection, request)
        standing = await claim_standing(connection, {request.org_id: claim_ids}, RESERVE_CLAIMS)
        reservation = gather(decide(request, claim_id, standing) for claim_id in claim_ids)
        all_or_nothing = request.mode is ReservationMode.ALL_OR_NOTHING
        if not reservation.grants or (reservation.conflicts and all_or_nothing):
            return ReservedClaims.model_construct(
                granted=[], conflicts=_as_spelled(request, reservation.conflicts), expires_at=None, fencing_token=None
            )
        lease = await connection.fetchrow(sql.query("write_leases"), *_lease_write(request, reservation.grants))
        if lease is None:
            raise RequestRefused(
                ErrorCode.UNAVAILABLE, "the database was restored: no claim is granted until forgotten leases are over"
            )
        await _record_taking(connection, request, reservation.grants)
        granted = {grant.claim_id for grant in reservation.grants}
        return ReservedClaims.model_construct(
            granted=[spelling for spelling, claim_id in by_spelling(request.claim_ids).items() if claim_id in granted],
            conflicts=_as_spelled(request, reservation.conflicts),
            expires_at=lease["expires_at"],
            fencing_token=lease["fencing_token"],
        )


def _as_spelled(request: ReserveClaims, conflicts: Sequence[ClaimConflict]) -> list[ClaimConflict]:
    """Conflicts for each spelling of their claims in the request, in its order."""
    by_claim = {conflict.claim_id: conflict for conflict in conflicts}
    return [
        replace(by_claim[claim_id], claim_id=spelling)
        for spelling, claim_id in by_spelling(request.claim_ids).items()
        if claim_id in by_claim
    ]


async def release_claims(connection: Connection, request: ReleaseClaims, until_s: float = math.inf) -> ReleasedClaims:
    """Free what a run holds, these claims or all. Freeing what it does not hold does nothing."""
    async with transaction(connection, until_s):
        await lock_runs(connection, [request.run_id])
        run = RunKey(request.run_id, request.org_id)
        return ReleasedClaims(released_count=await give_back_claims(connection, run, request.claim_ids))


async def give_back_claims(connection: Connection, run: RunKey, claim_ids: Sequence[str] | None = None) -> int:
    """Free the leases of a run that will not export these claims, or any claim; returns how many.

    What came with the leases, overrides and grants after a reversal, is withdrawn: if the run exports such a claim all
    the same, nobody has approved that. A run that ends keeps them, because it may have exported under them. The caller
    holds the lock on the run.
    """
    rows = await connection.fetch(sql.query("withdraw_overrides"), *run, claim_ids)
    if withdrawn := sorted({row["claim_id"] for row in rows}):
        payload = {"orgId": run.org_id, "runId": str(run.run_id), "claimIds": withdrawn}
        now = await connection.fetchval(sql.query("get_time"))
        await log_write(
            connection,
            EventType.OVERRIDES_WITHDRAWN,
            "request",
            run.run_id,
            run.org_id,
            now,
            json.dumps(payload),
        )
    return await free_leases(connection, [run], claim_ids)


async def free_leases(
    connection: Connection,
    runs: Collection[RunKey],
    claim_ids: Sequence[str] | None = None,
) -> int:
    """Free the leases of runs, all or those of these claims, inside the caller's transaction; returns how many.

    Each run comes with its organisation: until a run is known, another organisation may hold leases under its `runId`.
    """
    count: int = await connection.fetchval(sql.query("free_leases"), *column_arrays(runs), claim_ids)
    return count


def decide(request: ReserveClaims, claim_id: str, standing: ClaimStanding) -> Decision:
    """Whether a run gets one claim."""
    key = request.org_id, claim_id
    exports, lease = standing.exports.get(key, ()), standing.leases.get(key)
    if exports and request.override is None:
        return ClaimConflict(claim_id, ConflictReason.EXPORTED, exports[0].run_id, None)
    if lease is not None and lease.run_id == request.run_id:
        return Grant(claim_id, exports, lease)
    reversed_run_ids = standing.reversed_run_ids.get(key, ())
    if lease is None:
        return Grant(claim_id, exports, lease, reversed_run_ids)
    if not lease.has_expired:
        return ClaimConflict(claim_id, ConflictReason.RESERVED, lease.run_id, lease.expires_at)
    if not request.take_expired:
        return ClaimConflict(claim_id, ConflictReason.EXPIRED, lease.run_id, lease.expires_at)
    return Grant(claim_id, exports, lease, reversed_run_ids)


def gather(decisions: Iterable[Decision]) -> Reservation:
    """Tell grants from conflicts."""
    reservation = Reservation()
    for decision in decisions:
        match decision:
            case Grant():
                reservation.grants.append(decision)
            case ClaimConflict():
                reservation.conflicts.append(decision)
            case _:
                assert_never(decision)
    return reservation


async def _check_run(connection: Connection, request: ReserveClaims) -> None:
    """The run need not be known: its run-created may be on its way."""
    run = await connection.fetchrow(sql.query("get_run_state"), request.run_id)
    if run is None or run["org_id"] != request.org_id:
        return  # Nobody learns from this that another organisation has such a run; its leases are its own.
    if run["purged_at"] is not None:
        raise conflict("runId", "was purged, and exports nothing more")
    if run["deleted_at"] is not None:
        raise conflict("runId", "is deleted already, and exports nothing more")
    if run["status"] != RunStatus.PENDING:
        raise conflict("runId", f"is {run['status']} already, and exports nothing more")


def _lease_write(request: ReserveClaims, grants: Sequence[Grant]) -> LeaseWrite:
    return LeaseWrite(
        org_id=request.org_id,
        run_id=request.run_id,
        free_claim_ids=joined(grant.claim_id for grant in grants if grant.lease is None),
        leased_claim_ids=joined(grant.claim_id for grant in grants if grant.lease is not None),
        fencing_token=_token_to_keep(request.run_id, grants),
        ttl_s=request.ttl_seconds,
    )


def _token_to_keep(run_id: UUID, grants: Sequence[Grant]) -> int | None:
    """The token of a reservation that repeats others; None where a claim is new to the run.

    A token is greater than that of whoever held the claim before. So the greatest of several fits all their claims.
    """
    own_leases = [grant.lease for grant in grants if grant.lease is not None and grant.lease.run_id == run_id]
    if len(own_leases) < len(grants):
        return None
    return max(lease.fencing_token for lease in own_leases)


async def _record_taking(connection: Connection, request: ReserveClaims, grants: Sequence[Grant]) -> None:
    """Record, on the run and in the log, what was granted against an export or a lease, or after a reversal.

    A repetition adds nothing.
    """
    overrides = [OverriddenClaim(grant.claim_id, run.run_id) for grant in grants for run in grant.exports]
    takings = [
        {
            "claimId": grant.claim_id,
            "fromRunId": str(grant.lease.run_id),
            "expiredAt": grant.lease.expires_at.isoformat(),
        }
        for grant in grants
        if grant.lease is not None and grant.lease.run_id != request.run_id
    ]
    after_reversals = [ReversedClaim(grant.claim_id, run_id) for grant in grants for run_id in grant.reversed_run_ids]
    if not overrides and not takings and not after_reversals:
        return
    now = await connection.fetchval(sql.query("get_time"))
    new_claim_ids = await _insert_overrides(connection, request, overrides, now)
    reopened_claim_ids = await _insert_reversal_grants(connection, request, after_reversals, now)
    if not new_claim_ids and not takings and not reopened_claim_ids:
        return
    payload: dict[str, object] = {
        "orgId": request.org_id,
        "runId": str(request.run_id),
        "override": request.override and request.override.model_dump(mode="json"),
        "overridden": [
            {"claimId": override.claim_id, "earlierRunId": str(override.earlier_run_id)}
            for override in overrides
            if override.claim_id in new_claim_ids
        ],
        "taken": takings,
    }
    if reopened_claim_ids:
        payload["claimIds"] = sorted(reopened_claim_ids)
        payload["afterReversals"] = [
            {"claimId": claim.claim_id, "reversedRunId": str(claim.reversed_run_id)}
            for claim in after_reversals
            if claim.claim_id in reopened_claim_ids
        ]
    await log_write(
        connection, EventType.CLAIMS_TAKEN, "request", request.run_id, request.org_id, now, json.dumps(payload)
    )


async def _insert_reversal_grants(
    connection: Connection, request: ReserveClaims, claims: Sequence[ReversedClaim], granted_at: datetime
) -> set[str]:
    """Record grants after reversals; returns the claims of those that were not recorded before."""
    if not claims:
        return set()
    grant = ReversalGrant(request.run_id, request.org_id, granted_at)
    rows = await connection.fetch(sql.query("insert_reversal_grants"), *grant, *column_arrays(claims))
    return {row["claim_id"] for row in rows}


async def _insert_overrides(
    connection: Connection, request: ReserveClaims, overrides: Sequence[OverriddenClaim], granted_at: datetime
) -> set[str]:
    """Record overrides; returns the claims of those that were not recorded before."""
    if request.override is None or not overrides:
        return set()
    grant = OverrideGrant(
        run_id=request.run_id,
        org_id=request.org_id,
        reason=request.override.reason,
        approved_by=request.override.approved_by,
        granted_at=granted_at,
    )
    rows = await connection.fetch(sql.query("insert_overrides"), *grant, *column_arrays(overrides))
    return {row["claim_id"] for row in rows}
