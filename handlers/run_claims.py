"""The claims of one run, page by page: what became of each, and what its exporter says of it."""

import json
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

import sql
from schema.events import ClaimOutcome
from schema.fields import amount_text
from schema.limits import REPLY_BYTES_MAX, RUN_CLAIMS_PAGE_MAX
from schema.requests import ListRunClaims
from schema.results import RunClaim, RunClaimOverride, RunClaimReversal, RunClaimsPage
from sql.connection import Connection

from .cursors import decode_claim_cursor, encode_claim_cursor
from .errors import run_not_found
from .query_arguments import RunClaimsSearch

CLAIM_BYTES_MAX: Final = 700
"""What a claim takes in a reply, its texts apart."""

TEXT_BYTES_MAX: Final = (REPLY_BYTES_MAX - RUN_CLAIMS_PAGE_MAX * CLAIM_BYTES_MAX) // 2
"""Bytes of the texts of the claims on a page. In JSON a character may take twice as many."""


async def list_run_claims(connection: Connection, request: ListRunClaims) -> RunClaimsPage:
    """One page. It ends early where more would not fit into a reply. Raises RequestRefused (RUN_NOT_FOUND), and
    INVALID_REQUEST for a cursor of another list.
    """
    scope = _scope(request.run_id, request.outcome)
    above = "" if request.cursor is None else decode_claim_cursor(request.cursor, scope)
    run = await connection.fetchrow(sql.query("get_run_state"), request.run_id)
    if run is None or run["purged_at"] is not None or request.org_id not in (None, run["org_id"]):
        raise run_not_found()
    return await read_run_claims(connection, request.run_id, run["org_id"], request.limit, above, request.outcome)


async def read_run_claims(
    connection: Connection, run_id: UUID, org_id: str, limit: int, above: str = "", outcome: ClaimOutcome | None = None
) -> RunClaimsPage:
    """The claims of a run above a claim, at most `limit`, and no more than fit into a reply."""
    search = RunClaimsSearch(run_id, org_id, above, outcome, limit + 1, TEXT_BYTES_MAX)
    rows = await connection.fetch(sql.query("list_run_claims"), *search)
    shown = rows[:limit]
    is_last = not rows or rows[0]["available"] == len(shown)
    return RunClaimsPage.model_construct(
        claims=[_claim(row) for row in shown],
        next_cursor=None if is_last else encode_claim_cursor(shown[-1]["claim_id"], _scope(run_id, outcome)),
    )


def _scope(run_id: UUID, outcome: ClaimOutcome | None) -> str:
    """Which list a cursor is of. get-export-run-by-id gives cursors of the list of all claims."""
    return f"claims of {run_id} {outcome or ''}"


def _claim(row: Record) -> RunClaim:
    return RunClaim(
        claim_id=row["claim_id"],
        outcome=None if row["outcome"] is None else ClaimOutcome(row["outcome"]),
        reason=row["skip_reason"],
        code=row["skip_code"],
        voucher_id=row["voucher_id"],
        voucher_url=row["voucher_url"],
        amount=None if row["amount"] is None else amount_text(row["amount"]),
        currency=row["currency"],
        overrides=[_override(*each) for each in json.loads(row["overrides"])],
        reversal=None if row["reversed_at"] is None else _reversal(row),
    )


def _override(earlier_run_id: str, reason: str, approved_by: str, granted_at: str) -> RunClaimOverride:
    return RunClaimOverride(UUID(earlier_run_id), reason, approved_by, datetime.fromisoformat(granted_at))


def _reversal(row: Record) -> RunClaimReversal:
    return RunClaimReversal(
        reversed_at=row["reversed_at"],
        reason=row["reversal_reason"],
        reversed_by=row["reversed_by"],
        approved_by=row["reversal_approved_by"],
        external_reversal_id=row["external_reversal_id"],
    )
