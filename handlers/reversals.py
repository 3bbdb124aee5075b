"""Exports that are taken back: the accounting system refused them, or somebody voided the voucher.

A reversal reopens a claim, so it is a decision of two persons, recorded for ever: nothing undoes it. The claim is still
exported if another run has exported it. docs/decisions/reversals.md says which exports after it are no double exports.
"""

import json
import math
from collections.abc import Sequence

from asyncpg import Record

import sql
from schema.claim_ids import by_spelling
from schema.limits import REPLY_BYTES_MAX
from schema.operations import REVERSE_EXPORT
from schema.requests import ReverseExport
from schema.results import ReversedExport
from sql.connection import Connection, transaction

from .errors import conflict, result_too_large, run_not_found
from .event_log import EventType, log_write
from .locking import lock_runs, lock_runs_and_claims
from .query_arguments import Reversal


async def reverse_export(connection: Connection, request: ReverseExport, until_s: float = math.inf) -> ReversedExport:
    """Take back what a run has exported, these claims or all. Safe to repeat.

    Raises RequestRefused: RUN_NOT_FOUND; CONFLICT for a claim that the run has not exported, or that was reversed
    in other words; RESULT_TOO_LARGE. Raises TooLate, and reverses nothing, after `until_s` by the event loop's clock.
    """
    async with transaction(connection, until_s):
        await lock_runs(connection, [request.run_id])
        run = await connection.fetchrow(sql.query("get_run"), request.run_id)
        if run is None or run["org_id"] != request.org_id:
            raise run_not_found()
        # Nobody adds a claim to a run that is locked, nor reverses one of it.
        exports = await connection.fetch(
            sql.query("list_exports_of_run"), request.run_id, request.org_id, request.claim_ids
        )
        if request.claim_ids is None:
            answer, claim_ids = _all_exports(request, exports)
        else:
            answer, claim_ids = list(by_spelling(request.claim_ids)), _named_exports(request, exports)
        if claim_ids:
            await lock_runs_and_claims(connection, [request.run_id], [(request.org_id, claim_ids)])
            await _reverse(connection, request, claim_ids)
        return ReversedExport.model_construct(run_id=request.run_id, reversed=answer)


def _named_exports(request: ReverseExport, exports: Sequence[Record]) -> list[str]:
    """Of the claims of a request those that are not reversed yet. Raises RequestRefused (CONFLICT)."""
    assert request.claim_ids is not None
    by_claim = {row["claim_id"]: row for row in exports}
    for number, claim_id in enumerate(request.claim_ids):
        row = by_claim.get(claim_id)
        if row is None:
            raise conflict(f"claimIds.{number}", "the run has not exported it")
        if row["is_reversed"] and not _says_the_same(row, request):
            raise conflict(f"claimIds.{number}", "is reversed already, by somebody else or for another reason")
    return [claim_id for claim_id, row in by_claim.items() if not row["is_reversed"]]


def _all_exports(request: ReverseExport, exports: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Which claims a reversal of a whole run answers with, and which of them it reverses: all, or none of them if it is
    a repetition. So what the run has exported since the first time stays exported.

    Raises RequestRefused (CONFLICT, RESULT_TOO_LARGE).
    """
    repeated = [row["claim_id"] for row in exports if row["of_whole_run"] and _says_the_same(row, request)]
    claim_ids = [] if repeated else [row["claim_id"] for row in exports if not row["is_reversed"]]
    answer = repeated or claim_ids
    if not answer:
        raise conflict("runId", "has exported nothing, or nothing that is not reversed already")
    if len(json.dumps(answer, ensure_ascii=False).encode()) > REPLY_BYTES_MAX - 1_000:
        raise result_too_large(REVERSE_EXPORT)
    return answer, claim_ids


def _says_the_same(row: Record, request: ReverseExport) -> bool:
    """Whether a claim was reversed by this request, or by one in the same words."""
    facts = row["reason"], row["reversed_by"], row["approved_by"], row["external_reversal_id"]
    return facts == (request.reason, request.reversed_by, request.approved_by, request.external_reversal_id)


async def _reverse(connection: Connection, request: ReverseExport, claim_ids: list[str]) -> None:
    now = await connection.fetchval(sql.query("get_time"))
    payload = {
        "orgId": request.org_id,
        "runId": str(request.run_id),
        "claimIds": claim_ids,
        "ofWholeRun": request.claim_ids is None,
        "reason": request.reason,
        "reversedBy": request.reversed_by,
        "approvedBy": request.approved_by,
        "externalReversalId": request.external_reversal_id,
    }
    event_id = await log_write(
        connection, EventType.EXPORT_REVERSED, "request", request.run_id, request.org_id, now, json.dumps(payload)
    )
    reversal = Reversal(
        org_id=request.org_id,
        event_id=event_id,
        run_id=request.run_id,
        of_whole_run=request.claim_ids is None,
        reversed_at=now,
        reason=request.reason,
        reversed_by=request.reversed_by,
        approved_by=request.approved_by,
        external_reversal_id=request.external_reversal_id,
    )
    await record_reversal(connection, reversal, claim_ids)


async def record_reversal(connection: Connection, reversal: Reversal, claim_ids: Sequence[str]) -> None:
    """Take back the exports of these claims by a run, which the log says."""
    await connection.execute(sql.query("insert_reversal"), *reversal, claim_ids)
    await connection.execute(sql.query("apply_reversals"), reversal.run_id, reversal.org_id)
