"""The auditor's question: how does this claim stand, because of what, and what happened to it?"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from asyncpg import Record

import sql
from schema.events import ClaimOutcome
from schema.limits import EXPLAINED_RUNS_MAX
from schema.requests import ExplainClaim
from schema.results import (
    EventReason,
    ExplainedClaim,
    LeaseReason,
    OverrideReason,
    ReversalReason,
    RuleReason,
    Standing,
    StandingReason,
    StandingRule,
)
from sql.connection import Connection

from .claim_timeline import end_of_run, timeline_page
from .cursors import OLDEST, Bookmark, decode_cursor, encode_cursor, scope_of
from .event_log import EventType


async def explain_claim(connection: Connection, request: ExplainClaim) -> ExplainedClaim:
    """How a claim stands, because of what, and a page of its timeline. Raises RequestRefused (INVALID_REQUEST) for a
    cursor of another list.

    A claim that nobody knows is unexported, and has no timeline. It stands as `check-claims` says.
    """
    scope = scope_of(request.model_copy(update={"claim_id": str(request.claim_id)}))  # the same for each spelling
    start, as_of = OLDEST, datetime.now(UTC)
    if request.cursor is not None:
        start, as_of = decode_cursor(request.cursor, scope)
    rows = await connection.fetch(sql.query("explain_claim"), request.org_id, request.claim_id, EXPLAINED_RUNS_MAX)
    facts: defaultdict[str, list[Record]] = defaultdict(list)
    for row in rows:
        facts[row["kind"]].append(row)
    exports = [row for row in facts["run"] if row["outcome"] == ClaimOutcome.EXPORTED]
    runs = exports or facts["run"]
    standing, rule = _standing(exports, facts["lease"])
    if rule is StandingRule.NO_RUN_EXPORTED and any(run["outcome"] == ClaimOutcome.REVERSED for run in runs):
        rule = StandingRule.EVERY_EXPORT_REVERSED
    because: list[StandingReason] = [RuleReason(rule=rule)]
    because += [await _run_reason(connection, request, run) for run in runs]
    because += _other_reasons(facts["purge"], facts["reversal"], facts["override"], facts["lease"])
    timeline, last = await timeline_page(connection, request, start)
    return ExplainedClaim(
        standing=standing,
        because=because,
        timeline=timeline,
        next_cursor=None if last is None else encode_cursor(Bookmark(last, as_of), scope),
    )


def _standing(exports: Sequence[Record], leases: Sequence[Record]) -> tuple[Standing, StandingRule]:
    if exports:
        return Standing.EXPORTED, StandingRule.ANY_RUN_EXPORTED
    if not leases:
        return Standing.UNEXPORTED, StandingRule.NO_RUN_EXPORTED
    if leases[0]["has_expired"]:
        return Standing.RESERVED, StandingRule.EXPIRED_LEASE_HOLDS
    return Standing.RESERVED, StandingRule.LEASE_HOLDS


async def _run_reason(connection: Connection, request: ExplainClaim, run: Record) -> EventReason:
    """The event by which a run did with the claim what it did.

    All ends of a run say the same, and one of them made its facts, unless they contradict each other.
    """
    outcome = ClaimOutcome(run["outcome"])
    if outcome is ClaimOutcome.REVERSED:
        outcome = ClaimOutcome.EXPORTED  # that is what the event says
    event_id, occurred_at = run["event_id"], run["time"]
    if run["has_conflict"]:
        end = await end_of_run(connection, request, run["run_id"], outcome)
        if end is not None:
            event_id, occurred_at = end.event_id, end.occurred_at
    return EventReason(
        event_id=event_id,
        event_type=EventType.RUN_FINISHED,
        run_id=run["run_id"],
        occurred_at=occurred_at,
        outcome=outcome,
    )


def _other_reasons(
    purges: Sequence[Record], reversals: Sequence[Record], overrides: Sequence[Record], leases: Sequence[Record]
) -> Iterator[StandingReason]:
    for row in purges:
        yield EventReason(
            event_id=row["event_id"],
            event_type=EventType.RUN_PURGED,
            run_id=row["run_id"],
            occurred_at=row["time"],
            outcome=None,
        )
    for row in reversals:
        yield ReversalReason(
            event_id=row["event_id"],
            run_id=row["run_id"],
            reversed_at=row["time"],
            reason=row["reason"],
            reversed_by=row["reversed_by"],
            approved_by=row["approved_by"],
            external_reversal_id=row["external_reversal_id"],
        )
    for row in overrides:
        yield OverrideReason(
            run_id=row["run_id"],
            earlier_run_id=row["earlier_run_id"],
            reason=row["reason"],
            approved_by=row["approved_by"],
            granted_at=row["time"],
        )
    for row in leases:
        yield LeaseReason(
            run_id=row["run_id"],
            fencing_token=row["fencing_token"],
            expires_at=row["time"],
            has_expired=row["has_expired"],
        )
