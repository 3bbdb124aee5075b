"""What became of each claim of a run, by what the end of the run says."""

from typing import TypeAlias

from schema.events import ClaimOutcome, FinishedFacts, RunStatus

ClaimOutcomes: TypeAlias = dict[str, tuple[ClaimOutcome, str | None]]
"""What became of each claim of a run, and why it was skipped if it was."""


def claim_outcomes(facts: FinishedFacts) -> ClaimOutcomes:
    """What became of each claim of a run, and why it was skipped if it was.

    A claim that the event lists as skipped and as exported was exported. A claim that it lists as skipped and as
    attempted was skipped.
    """
    outcome_of_listed = ClaimOutcome.ATTEMPTED if facts.status == RunStatus.FAILED else ClaimOutcome.EXPORTED
    outcomes: ClaimOutcomes = dict.fromkeys(facts.claim_ids, (outcome_of_listed, None))
    for skipped in sorted(facts.skipped_claims, key=lambda skipped: skipped.reason, reverse=True):
        listed, _ = outcomes.get(skipped.claim_id, (ClaimOutcome.ATTEMPTED, None))
        outcome = listed if listed is ClaimOutcome.EXPORTED else ClaimOutcome.SKIPPED
        outcomes[skipped.claim_id] = (outcome, skipped.reason)
    return outcomes
