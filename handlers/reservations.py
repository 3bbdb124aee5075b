"""Leases on claims: the guard's question and its answer's validity, in one atomic step.

Leases are not part of what the events say: they stand beside it, and go by the database's clock. A lease that has
expired still stands in the way, because its holder may be slow and still paying: until the holder's run fails, its
holder releases it, or somebody takes it and says so.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

import sql
from schema.errors import ErrorCode, FieldError
from schema.events import RunStatus
from schema.fields import Override
from schema.requests import ReleaseClaims, ReservationMode, ReserveClaims
from schema.results import ClaimConflict, ConflictReason, ReleasedClaims, ReservedClaims

from .connection import Connection
from .errors import RequestRefused, run_not_found
from .event_log import log_write
from .locking import SEPARATOR, lock_runs, lock_runs_and_claims

CLAIMS_TAKEN: Final = "claims-taken"
"""An event type of the log only: claims were granted that had been exported, or that another run had leased."""


@dataclass(slots=True)
class _Decision:
    """What a reservation comes to: a pure function of the request and of what stands in its way."""

    granted: list[str] = field(default_factory=list)
    conflicts: list[ClaimConflict] = field(default_factory=list)
    overridden: list[tuple[str, UUID]] = field(default_factory=list)
    """Granted although exported: the claim, and each run that exported it."""

    taken: list[tuple[str, UUID, datetime]] = field(default_factory=list)
    """Granted although leased: the claim, its holder, and when the lease expired."""

    leased: dict[str, int | None] = field(default_factory=dict)
    """Granted, and leased until now: by this run, with which token, or by another (None)."""


async def reserve_claims(connection: Connection, request: ReserveClaims) -> ReservedClaims:
    """Grant claims to a run that is about to export them, and refuse those that another has or had.

    Of any number of reservations of a claim at one time exactly one is granted. Repeating a reservation renews its
    lease and keeps its token. Raises RequestRefused: CONFLICT for a run that has finished or is deleted,
    RUN_NOT_FOUND for another organisation's.
    """
    asked = list(dict.fromkeys(request.claim_ids))
    async with connection.transaction():
        await lock_runs_and_claims(connection, [request.run_id], [(request.org_id, asked)])
        await _check_run(connection, request)
        rows = await connection.fetch(sql.query("find_exports_and_leases"), [request.org_id], [SEPARATOR.join(asked)])
        decision = _decide(request, asked, rows)
        if not decision.granted or (decision.conflicts and request.mode is ReservationMode.ALL_OR_NOTHING):
            return ReservedClaims.model_construct(
                granted=[], conflicts=decision.conflicts, expires_at=None, fencing_token=None
            )
        lease = await connection.fetchrow(
            sql.query("write_leases"),
            request.org_id,
            request.run_id,
            SEPARATOR.join(claim_id for claim_id in decision.granted if claim_id not in decision.leased),
            SEPARATOR.join(decision.leased),
            _token_to_keep(decision),
            request.ttl_seconds,
        )
        assert lease is not None
        await _record_taking(connection, request, decision)
        return ReservedClaims.model_construct(
            granted=decision.granted,
            conflicts=decision.conflicts,
            expires_at=lease["expires_at"],
            fencing_token=lease["fencing_token"],
        )


async def release_claims(connection: Connection, request: ReleaseClaims) -> ReleasedClaims:
    """Free what a run holds, these claims or all. Freeing what it does not hold does nothing."""
    async with connection.transaction():
        await lock_runs(connection, [request.run_id])
        return ReleasedClaims(
            released_count=await free_leases(connection, [(request.run_id, request.org_id)], request.claim_ids)
        )


async def free_leases(
    connection: Connection,
    runs: Collection[tuple[UUID, str]],
    claim_ids: Sequence[str] | None = None,
) -> int:
    """Free the leases of runs, all or those of these claims, inside the caller's transaction; returns how many.

    A run is given with its organisation: another's leases may stand under the same `runId` until it is known.
    """
    run_ids, org_ids = zip(*runs, strict=True)
    freed: int = await connection.fetchval(sql.query("free_leases"), run_ids, org_ids, claim_ids)
    return freed


async def _check_run(connection: Connection, request: ReserveClaims) -> None:
    """The run need not be known: its run-created may be on its way."""
    run = await connection.fetchrow(sql.query("get_run"), request.run_id)
    if run is None:
        return
    if run["org_id"] != request.org_id:
        raise run_not_found()
    if run["status"] != RunStatus.PENDING or run["deleted_at"] is not None:
        how = "deleted" if run["deleted_at"] is not None else run["status"]
        raise RequestRefused(
            ErrorCode.CONFLICT,
            "the request contradicts what is stored",
            FieldError(field="runId", message=f"is {how} already, and exports nothing more"),
        )


def _decide(request: ReserveClaims, asked: Sequence[str], rows: Sequence[Record]) -> _Decision:
    exports: dict[str, list[Record]] = {}
    leases: dict[str, Record] = {}
    for row in rows:
        if row["expires_at"] is None:
            exports.setdefault(row["claim_id"], []).append(row)
        else:
            leases[row["claim_id"]] = row
    decision = _Decision()
    for claim_id in asked:
        exported, lease = exports.get(claim_id, []), leases.get(claim_id)
        if exported and request.override is None:
            first = min(exported, key=lambda row: (row["finished_at"], row["run_id"]))
            conflict = ClaimConflict(claim_id, ConflictReason.EXPORTED, first["run_id"], None)
        elif lease is None or lease["run_id"] == request.run_id or (lease["expired"] and request.take_expired):
            decision.granted.append(claim_id)
            decision.overridden += [(claim_id, row["run_id"]) for row in exported]
            if lease is not None:
                own = lease["run_id"] == request.run_id
                decision.leased[claim_id] = lease["fencing_token"] if own else None
                if not own:
                    decision.taken.append((claim_id, lease["run_id"], lease["expires_at"]))
            continue
        else:
            reason = ConflictReason.EXPIRED if lease["expired"] else ConflictReason.RESERVED
            conflict = ClaimConflict(claim_id, reason, lease["run_id"], lease["expires_at"])
        decision.conflicts.append(conflict)
    return decision


def _token_to_keep(decision: _Decision) -> int | None:
    """The token of a reservation that repeats others; none where a claim is new to the run.

    A token is greater than that of whoever held the claim before. So the greatest of several fits all their claims.
    """
    known = [token for token in decision.leased.values() if token is not None]
    return max(known) if len(known) == len(decision.granted) else None


async def _record_taking(connection: Connection, request: ReserveClaims, decision: _Decision) -> None:
    """Note what was granted against an export or a lease: on the run, and in the log. A repetition adds nothing."""
    overridden = await _note_overrides(connection, request.override, request, decision.overridden)
    if not overridden and not decision.taken:
        return
    payload = {
        "orgId": request.org_id,
        "runId": str(request.run_id),
        "override": request.override and request.override.model_dump(mode="json"),
        "overridden": [
            {"claimId": claim_id, "earlierRunId": str(run_id)}
            for claim_id, run_id in decision.overridden
            if claim_id in overridden
        ],
        "taken": [
            {"claimId": claim_id, "fromRunId": str(run_id), "expiredAt": expires_at.isoformat()}
            for claim_id, run_id, expires_at in decision.taken
        ],
    }
    now = await connection.fetchval(sql.query("get_time"))
    await log_write(connection, CLAIMS_TAKEN, "request", request.run_id, request.org_id, now, json.dumps(payload))


async def _note_overrides(
    connection: Connection, override: Override | None, request: ReserveClaims, overridden: Sequence[tuple[str, UUID]]
) -> set[str]:
    """The claims of which an override was not noted before."""
    if override is None or not overridden:
        return set()
    claim_ids, earlier_run_ids = zip(*overridden, strict=True)
    noted = await connection.fetch(
        sql.query("insert_overrides"),
        request.run_id,
        request.org_id,
        override.reason,
        override.approved_by,
        claim_ids,
        earlier_run_ids,
    )
    return {row["claim_id"] for row in noted}
