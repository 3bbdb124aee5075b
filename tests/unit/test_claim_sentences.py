"""What somebody who keeps the books reads of a claim."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from cli.claim_sentences import entry_sentence, reason_sentence
from export_runs_client.schema.events import ClaimOutcome, RunStatus
from export_runs_client.schema.results import (
    EventReason,
    LeaseReason,
    OverrideReason,
    ReversalReason,
    RuleReason,
    StandingReason,
    StandingRule,
    TimelineEntry,
)

RUN, OTHER, EVENT = (UUID(int=number) for number in (1, 2, 3))
TIME = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def event_reason(outcome: ClaimOutcome | None) -> EventReason:
    return EventReason(event_id=EVENT, event_type="an event", run_id=RUN, occurred_at=TIME, outcome=outcome)


def lease_reason(has_expired: bool) -> LeaseReason:
    return LeaseReason(run_id=RUN, fencing_token=7, expires_at=TIME, has_expired=has_expired)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (event_reason(ClaimOutcome.EXPORTED), f"Run {RUN} exported the claim on 2026-01-31 09:30:00 (event {EVENT})."),
        (event_reason(ClaimOutcome.SKIPPED), f"Run {RUN} left the claim out on 2026-01-31 09:30:00 (event {EVENT})."),
        (event_reason(None), f"Run {RUN} was purged on 2026-01-31 09:30:00 (event {EVENT})."),
        (lease_reason(False), f"Run {RUN} holds it until 2026-01-31 09:30:00 (token 7)."),
        (lease_reason(True), f"Run {RUN} held it until 2026-01-31 09:30:00 (token 7)."),
        (
            OverrideReason(
                run_id=RUN, earlier_run_id=OTHER, reason="it was lost", approved_by="carol", granted_at=TIME
            ),
            f"carol allowed run {RUN} on 2026-01-31 09:30:00 to export it although run {OTHER} had: it was lost",
        ),
        (
            ReversalReason(
                event_id=EVENT,
                run_id=RUN,
                reversed_at=TIME,
                reason="it was voided",
                reversed_by="bob",
                approved_by="carol",
                external_reversal_id="void-88",
            ),
            f"bob took the export by run {RUN} back on 2026-01-31 09:30:00 under the number void-88, approved by "
            "carol: it was voided",
        ),
    ],
)
def test_a_reason(reason: StandingReason, expected: str) -> None:
    assert reason_sentence(reason) == expected


def test_every_rule_has_a_sentence() -> None:
    sentences = {reason_sentence(RuleReason(rule=rule)) for rule in StandingRule}
    assert len(sentences) == len(StandingRule)


@pytest.mark.parametrize(
    ("event_type", "fields", "expected"),
    [
        ("run-created", {"actor": "alice"}, f"alice started run {RUN}."),
        (
            "run-finished",
            {"status": RunStatus.COMPLETED, "outcome": ClaimOutcome.EXPORTED},
            f"Run {RUN} ended as completed, and exported the claim.",
        ),
        (
            "run-finished",
            {"status": RunStatus.PARTIAL, "outcome": ClaimOutcome.SKIPPED, "reason": "no receipt"},
            f"Run {RUN} ended as partial, and left the claim out: no receipt",
        ),
        (
            "run-finished",
            {"status": RunStatus.FAILED, "outcome": ClaimOutcome.ATTEMPTED},
            f"Run {RUN} ended as failed, and tried to export the claim, but failed.",
        ),
        ("run-finished", {"status": RunStatus.FAILED}, f"Run {RUN} ended as failed, and did not name the claim."),
        ("run-finished", {}, f"Run {RUN} ended. This version cannot read how."),
        (
            "run-deleted",
            {"actor": "bob", "reason": "a test"},
            f"bob deleted run {RUN}. What it exported stays exported. The reason: a test",
        ),
        ("run-purged", {"actor": "bob"}, f"bob purged run {RUN}. What it did counts no more."),
        ("run-unpurged", {"actor": "bob"}, f"bob brought run {RUN} back. What it did counts again."),
        (
            "claims-taken",
            {"approved_by": "carol", "reason": "it was lost", "other_run_ids": [OTHER]},
            f"carol allowed run {RUN} to export the claim although run {OTHER} had: it was lost",
        ),
        (
            "claims-taken",
            {"other_run_ids": [OTHER]},
            f"Run {RUN} took the claim over from run {OTHER}, whose time was over.",
        ),
        (
            "overrides-withdrawn",
            {},
            f"Run {RUN} gave the claim back. It may no longer export what another run had.",
        ),
        (
            "double-export-resolved",
            {"actor": "bob", "reason": "paid back", "other_run_ids": [RUN, OTHER]},
            f"bob noted about the double export by runs {RUN}, {OTHER}: paid back",
        ),
        (
            "dead-letter-discarded",
            {"actor": "bob", "reason": "a test"},
            "bob discarded a message that could not be stored: a test",
        ),
        ("of-a-later-version", {}, f"of-a-later-version of run {RUN}"),
    ],
)
def test_an_entry_of_the_timeline(event_type: str, fields: dict[str, Any], expected: str) -> None:
    entry = TimelineEntry(
        event_id=EVENT,
        event_type=event_type,
        origin="event",
        run_id=RUN,
        occurred_at=TIME,
        received_at=TIME,
        **fields,
    )
    assert entry_sentence(entry) == expected
