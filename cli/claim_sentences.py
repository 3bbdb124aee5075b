"""How a claim stands, why, and what happened to it, in sentences for somebody who keeps the books."""

from collections.abc import Sequence
from typing import Final, assert_never
from uuid import UUID

from cli.terminal import Terminal
from cli.times import time_text
from export_runs_client.schema.events import ClaimOutcome
from export_runs_client.schema.requests import ExplainClaim
from export_runs_client.schema.results import (
    EventReason,
    ExplainedClaim,
    LeaseReason,
    OverrideReason,
    ReversalReason,
    RuleReason,
    Standing,
    StandingReason,
    StandingRule,
    TimelineEntry,
)

_STANDINGS: Final = {
    Standing.EXPORTED: "has been exported. It must not be paid again",
    Standing.RESERVED: "is reserved. No other run may export it now",
    Standing.UNEXPORTED: "has not been exported. It may be exported",
}

_RULES: Final = {
    StandingRule.ANY_RUN_EXPORTED: "A claim counts as exported if any run exported it, also a run that was deleted.",
    StandingRule.LEASE_HOLDS: "A claim is reserved while a run holds it.",
    StandingRule.EXPIRED_LEASE_HOLDS: (
        "A claim stays reserved after the time of its run is over: the run may be slow, and still paying."
    ),
    StandingRule.EVERY_EXPORT_REVERSED: "Every export of it was taken back, and no run holds it.",
    StandingRule.NO_RUN_EXPORTED: (
        "No run has exported it, and none holds it. A claim that was only attempted or skipped was not exported, "
        "and a run that was purged does not count."
    ),
}


def show_explained_claim(terminal: Terminal, request: ExplainClaim, explained: ExplainedClaim) -> None:
    """Print how a claim stands and why, and a page of what happened to it, oldest first."""
    terminal.print_line(f"Claim {request.claim_id} of {request.org_id} {_STANDINGS[explained.standing]}.")
    terminal.print_line()
    terminal.print_line("Why:")
    for reason in explained.because:
        terminal.print_line(f"- {reason_sentence(reason)}")
    terminal.print_line()
    terminal.print_line("What happened, by the clocks of those who did it (UTC), in the order in which it was stored:")
    for entry in explained.timeline:
        terminal.print_line(f"{time_text(entry.occurred_at)}  {entry_sentence(entry)}")
    if not explained.timeline:
        terminal.print_line("nothing that was stored")
    if explained.next_cursor:
        terminal.print_line(f"next page: --cursor {explained.next_cursor}")


def reason_sentence(reason: StandingReason) -> str:
    """One reason for how a claim stands, as a sentence."""
    match reason:
        case RuleReason():
            return _RULES[reason.rule]
        case EventReason():
            what = _did(reason.outcome) if reason.outcome else "was purged"
            return f"Run {reason.run_id} {what} on {time_text(reason.occurred_at)} (event {reason.event_id})."
        case OverrideReason():
            return (
                f"{reason.approved_by} allowed run {reason.run_id} on {time_text(reason.granted_at)} to export it "
                f"although run {reason.earlier_run_id} had: {reason.reason}"
            )
        case ReversalReason():
            external = f" under the number {reason.external_reversal_id}" if reason.external_reversal_id else ""
            return (
                f"{reason.reversed_by} took the export by run {reason.run_id} back on {time_text(reason.reversed_at)}"
                f"{external}, approved by {reason.approved_by}: {reason.reason}"
            )
        case LeaseReason():
            verb = "held" if reason.has_expired else "holds"
            number = f"(token {reason.fencing_token})"
            return f"Run {reason.run_id} {verb} it until {time_text(reason.expires_at)} {number}."
        case _:
            assert_never(reason)


def entry_sentence(entry: TimelineEntry) -> str:
    """One entry of a timeline, as a sentence."""
    run, actor, others = f"run {entry.run_id}", entry.actor or "somebody", _runs(entry.other_run_ids)
    reason = f": {entry.reason}" if entry.reason else "."
    match entry.event_type:
        case "run-created":
            return f"{actor} started {run}."
        case "run-finished":
            return _end_sentence(entry, run)
        case "run-deleted":
            return f"{actor} deleted {run}. What it exported stays exported. The reason{reason}"
        case "run-purged":
            return f"{actor} purged {run}. What it did counts no more."
        case "run-unpurged":
            return f"{actor} brought {run} back. What it did counts again."
        case "claims-taken" if entry.approved_by:
            return f"{entry.approved_by} allowed {run} to export the claim although {others} had{reason}"
        case "claims-taken" if entry.outcome is ClaimOutcome.REVERSED:
            return f"R{run[1:]} was granted the claim, because the export by {others} had been taken back."
        case "claims-taken":
            return f"R{run[1:]} took the claim over from {others}, whose time was over."
        case "overrides-withdrawn":
            return f"R{run[1:]} gave the claim back. It may no longer export what another run had."
        case "double-export-resolved":
            return f"{actor} noted about the double export by {others}{reason}"
        case "export-reversed":
            return f"{actor} took the export by {run} back, approved by {entry.approved_by}{reason}"
        case "dead-letter-discarded":
            return f"{actor} discarded a message that could not be stored{reason}"
        case other:
            return f"{other} of {run}"


def _end_sentence(entry: TimelineEntry, run: str) -> str:
    if entry.status is None:
        return f"R{run[1:]} ended. This version cannot read how."
    ended = f"R{run[1:]} ended as {entry.status}"
    if entry.outcome is None:
        return f"{ended}, and did not name the claim."
    reason = f": {entry.reason}" if entry.reason else "."
    return f"{ended}, and {_did(entry.outcome)}{reason}"


def _did(outcome: ClaimOutcome) -> str:
    """What a run did with the claim."""
    match outcome:
        case ClaimOutcome.EXPORTED:
            return "exported the claim"
        case ClaimOutcome.REVERSED:
            return "exported the claim, which was taken back"
        case ClaimOutcome.SKIPPED:
            return "left the claim out"
        case ClaimOutcome.ATTEMPTED:
            return "tried to export the claim, but failed"
        case _:
            assert_never(outcome)


def _runs(run_ids: Sequence[UUID]) -> str:
    if not run_ids:
        return "another run"
    word = "run" if len(run_ids) == 1 else "runs"
    return f"{word} {', '.join(map(str, run_ids))}"
