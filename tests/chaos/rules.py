"""The rules of docs/MERGE_RULES.md once more, on plain JSON: the run that a set of events leads to."""

import json
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

Json = dict[str, Any]

STATUSES: Final = ("pending", "failed", "partial", "completed")
OUTCOMES: Final = ("attempted", "skipped", "exported")

_CREATED_FACTS = (
    "triggeredBy", "format", "targetSystem", "periodStart", "periodEnd", "retryOfRunId", "override", "trigger", "scope"
)  # fmt: skip


def run_of(events: Sequence[tuple[str, Json]]) -> Json:
    """The row of a run after all its events. Each event is there once, with its type."""
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
        "trigger": start.get("trigger"),
        "scope": start.get("scope"),
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
        "has_conflict": len(set(map(_created_facts, created))) > 1 or len(set(map(_finished_facts, finished))) > 1,
    }


def claims_of(events: Sequence[tuple[str, Json]]) -> dict[str, tuple[str, str | None]]:
    """The outcome of each claim of a run, and the reason if it was skipped: of several the first in sort order."""
    outcomes: dict[str, str] = {}
    reasons: dict[str, list[str]] = {}
    for kind, event in events:
        if kind != "run-finished":
            continue
        outcome = "attempted" if event["status"] == "failed" else "exported"
        outcomes_of_event = [(claim, outcome) for claim in event["claimIds"]]
        for skipped in event.get("skippedClaims", []):
            outcomes_of_event.append((skipped["claimId"], "skipped"))
            reasons.setdefault(skipped["claimId"], []).append(skipped["reason"])
        for claim, outcome in outcomes_of_event:
            outcomes[claim] = max(outcome, outcomes.get(claim, "attempted"), key=OUTCOMES.index)
    return {
        claim: (outcome, min(reasons[claim]) if outcome == "skipped" else None) for claim, outcome in outcomes.items()
    }


def is_run_of(run_reply: Json, events: Sequence[tuple[str, Json]]) -> bool:
    """Whether a run in a reply is the run that these events lead to."""
    run, claims = run_of(events), claims_of(events)
    error, artifact, override = run_reply["error"] or {}, run_reply["artifact"] or {}, run_reply["override"] or {}
    columns = {
        "triggered_by": run_reply["triggeredBy"],
        "format": run_reply["format"],
        "target_system": run_reply["targetSystem"],
        "trigger": run_reply["trigger"],
        "scope": run_reply["scope"],
        "period_start": run_reply["periodStart"] and date.fromisoformat(run_reply["periodStart"]),
        "period_end": run_reply["periodEnd"] and date.fromisoformat(run_reply["periodEnd"]),
        "status": run_reply["status"],
        "created_at": datetime.fromisoformat(run_reply["createdAt"]),
        "finished_at": run_reply["finishedAt"] and datetime.fromisoformat(run_reply["finishedAt"]),
        "claim_count": run_reply["claimCount"],
        "skipped_count": run_reply["skippedCount"],
        "error_code": error.get("code"),
        "error_detail": error.get("detail"),
        "artifact_key": artifact.get("key"),
        "artifact_sha256": artifact.get("sha256"),
        "artifact_size_bytes": artifact.get("sizeBytes"),
        "external_ack_id": run_reply["externalAckId"],
        "retry_of_run_id": run_reply["retryOfRunId"] and UUID(run_reply["retryOfRunId"]),
        "override_reason": override.get("reason"),
        "override_approved_by": override.get("approvedBy"),
        "has_conflict": run_reply["hasConflict"],
    }
    not_skipped = sorted(claim for claim, (outcome, _) in claims.items() if outcome != "skipped")
    skipped = sorted((claim, reason) for claim, (outcome, reason) in claims.items() if outcome == "skipped")
    return (
        all(run[column] == value for column, value in columns.items())
        and run_reply["claimIds"] == not_skipped
        and [(each["claimId"], each["reason"]) for each in run_reply["skippedClaims"]] == skipped
    )


def _age(event: Json) -> tuple[datetime, int]:
    return _time(event), UUID(event["eventId"]).int


def _time(event: Json) -> datetime:
    return datetime.fromisoformat(event["occurredAt"])


def _date(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


def _created_facts(event: Json) -> str:
    return json.dumps([event.get(fact) for fact in _CREATED_FACTS], sort_keys=True)


def _finished_facts(event: Json) -> str:
    """The order of the claims has no meaning."""
    skipped = sorted({(each["claimId"], each["reason"]) for each in event.get("skippedClaims", [])})
    others = [event.get(fact) for fact in ("status", "error", "artifact", "externalAckId")]
    return json.dumps([sorted(set(event["claimIds"])), skipped, others], sort_keys=True)
