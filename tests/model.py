"""The merge rules of DESIGN section 3, once more, in the plainest Python: what a set of events comes to."""

from collections.abc import Collection
from typing import Any

from schema.events import RunCreated, RunFinished, RunStatus

STATUSES = ["pending", "failed", "partial", "completed"]
OUTCOMES = ["attempted", "skipped", "exported"]

CREATED_FACTS = (
    "triggered_by",
    "format",
    "target_system",
    "period_start",
    "period_end",
    "retry_of_run_id",
)


def state_of(events: Collection[RunCreated | RunFinished]) -> dict[str, Any]:
    """The state of one run, from all its events."""
    created = sorted(
        (event for event in events if isinstance(event, RunCreated)),
        key=lambda event: (event.occurred_at, event.event_id),
    )
    finished = sorted(
        (event for event in events if isinstance(event, RunFinished)),
        key=lambda event: (-STATUSES.index(event.status), event.occurred_at, event.event_id),
    )
    claims = claims_of(finished)
    state: dict[str, Any] = {
        "created_at": created[0].occurred_at if created else min(each.occurred_at for each in finished),
        "status": finished[0].status if finished else "pending",
        "finished_at": finished[0].occurred_at if finished else None,
        "external_ack_id": finished[0].external_ack_id if finished else None,
        "error_code": finished[0].error.code if finished and finished[0].error else None,
        "claims": claims,
        "claim_count": sum(outcome != "skipped" for outcome, _ in claims.values()),
        "skipped_count": sum(outcome == "skipped" for outcome, _ in claims.values()),
        "has_conflict": len({_said_at_start(each) for each in created}) > 1
        or len({_said_at_end(each) for each in finished}) > 1,
    }
    for fact in CREATED_FACTS:
        state[fact] = getattr(created[0], fact) if created else None
    return state


def claims_of(finished: Collection[RunFinished]) -> dict[str, tuple[str, str | None]]:
    """The highest outcome of each claim, and the least of the reasons it was skipped for."""
    outcomes: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for event in finished:
        for claim_id in event.claim_ids:
            outcomes.setdefault(claim_id, []).append("attempted" if event.status is RunStatus.FAILED else "exported")
        for skipped in event.skipped_claims:
            outcomes.setdefault(skipped.claim_id, []).append("skipped")
            reasons.setdefault(skipped.claim_id, []).append(skipped.reason)
    return {
        claim_id: (max(each, key=OUTCOMES.index), min(reasons.get(claim_id, []), default=None))
        for claim_id, each in outcomes.items()
    }


def _said_at_start(event: RunCreated) -> tuple[object, ...]:
    return tuple(getattr(event, fact) for fact in CREATED_FACTS)


def _said_at_end(event: RunFinished) -> tuple[object, ...]:
    claims = tuple(sorted(claims_of([event]).items()))
    return event.status, claims, event.external_ack_id, event.error
