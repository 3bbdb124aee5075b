"""What a set of events comes to, by the rules of the contract (DESIGN section 3), from plain JSON."""

import json
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

Json = dict[str, Any]

STATUSES: Final = ("pending", "failed", "partial", "completed")
OUTCOMES: Final = ("attempted", "skipped", "exported")

_CREATED_FACTS = (
    "triggeredBy", "format", "targetSystem", "periodStart", "periodEnd", "retryOfRunId", "override"
)  # fmt: skip


def run_of(events: Sequence[tuple[str, Json]]) -> Json:
    """The row of a run, from the types and bodies of all its events, each event once."""
    created = sorted((event for kind, event in events if kind == "run-created"), key=_age)
    finished = sorted(
        (event for kind, event in events if kind == "run-finished"),
        key=lambda event: (-STATUSES.index(event["status"]), *_age(event)),
    )
    start: Json = created[0] if created else {}
    end: Json = finished[0] if finished else {}
    override, error, artifact = start.get("override", {}), end.get("error", {}), end.get("artifact", {})
    outcomes = [outcome for outcome, _ in claims_of(events).values()]
    return {
        "run_id": UUID(events[0][1]["runId"]),
        "org_id": events[0][1]["orgId"],
        "created_at": min(_time(event) for event in created[:1] or finished),
        "created_event_id": UUID(start["eventId"]) if start else None,
        "triggered_by": start.get("triggeredBy"),
        "format": start.get("format"),
        "target_system": start.get("targetSystem"),
        "period_start": _date(start.get("periodStart")),
        "period_end": _date(start.get("periodEnd")),
        "retry_of_run_id": UUID(start["retryOfRunId"]) if "retryOfRunId" in start else None,
        "override_reason": override.get("reason"),
        "override_approved_by": override.get("approvedBy"),
        "status": end.get("status", "pending"),
        "finished_at": _time(end) if end else None,
        "finished_event_id": UUID(end["eventId"]) if end else None,
        "error_code": error.get("code"),
        "error_detail": error.get("detail"),
        "artifact_key": artifact.get("key"),
        "artifact_sha256": artifact.get("sha256"),
        "artifact_size_bytes": artifact.get("sizeBytes"),
        "external_ack_id": end.get("externalAckId"),
        "claim_count": sum(outcome != "skipped" for outcome in outcomes),
        "skipped_count": sum(outcome == "skipped" for outcome in outcomes),
        "deleted_at": None,
        "deleted_by": None,
        "deleted_reason": None,
        "has_conflict": len(set(map(_said_at_start, created))) > 1 or len(set(map(_said_at_end, finished))) > 1,
    }


def claims_of(events: Sequence[tuple[str, Json]]) -> dict[str, tuple[str, str | None]]:
    """Each claim of a run: its outcome, and if it was skipped the reason, of several the first in order."""
    outcomes: dict[str, str] = {}
    reasons: dict[str, list[str]] = {}
    for kind, event in events:
        if kind != "run-finished":
            continue
        carried = "attempted" if event["status"] == "failed" else "exported"
        said = [(claim, carried) for claim in event["claimIds"]]
        for skipped in event.get("skippedClaims", []):
            said.append((skipped["claimId"], "skipped"))
            reasons.setdefault(skipped["claimId"], []).append(skipped["reason"])
        for claim, outcome in said:
            outcomes[claim] = max(outcome, outcomes.get(claim, "attempted"), key=OUTCOMES.index)
    return {
        claim: (outcome, min(reasons[claim]) if outcome == "skipped" else None) for claim, outcome in outcomes.items()
    }


def _age(event: Json) -> tuple[datetime, int]:
    return _time(event), UUID(event["eventId"]).int


def _time(event: Json) -> datetime:
    return datetime.fromisoformat(event["occurredAt"])


def _date(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


def _said_at_start(event: Json) -> str:
    return json.dumps([event.get(fact) for fact in _CREATED_FACTS], sort_keys=True)


def _said_at_end(event: Json) -> str:
    """The order in which claims are listed says nothing."""
    skipped = sorted({(each["claimId"], each["reason"]) for each in event.get("skippedClaims", [])})
    others = [event.get(fact) for fact in ("status", "error", "artifact", "externalAckId")]
    return json.dumps([sorted(set(event["claimIds"])), skipped, others], sort_keys=True)
