"""The rules about what a guard lets through."""

from collections.abc import Iterator
from typing import Final

from cli.conformance.rules import Fault, Rule
from cli.conformance.timeline import Answer, Spoken, Timeline
from schema.operations import CHECK_CLAIMS
from schema.results import CheckedClaims

FREE: Final = "free"
"""The word of the line that a guard prints for a claim that may go out."""


def _let_through(timeline: Timeline) -> Iterator[tuple[Spoken, Answer | None]]:
    """Each claim that was let through, and the last answer until then."""
    answered = [each for each in timeline.asked(CHECK_CLAIMS.name) if each.at_s is not None]
    for free in timeline.said(FREE):
        before = [each for each in answered if each.at_s is not None and each.at_s <= free.at_s]
        yield free, before[-1] if before else None


def _no_answer(timeline: Timeline) -> Iterator[Fault]:
    asked = timeline.asked(CHECK_CLAIMS.name)
    for free, answer in _let_through(timeline):
        if answer is None and asked:  # who never asks breaks the rule to ask
            sentence = f"claim {free.claim_id} was let through although nobody had answered"
            yield Fault(sentence, asked[-1].message_id)


def _error_is_not_free(timeline: Timeline) -> Iterator[Fault]:
    for free, answer in _let_through(timeline):
        if answer is not None and answer.error is not None:
            sentence = f"claim {free.claim_id} was let through although the answer was the error {answer.error}"
            yield Fault(sentence, answer.message_id)


def _only_unexported(timeline: Timeline) -> Iterator[Fault]:
    for free, answer in _let_through(timeline):
        result = None if answer is None else answer.result
        if answer is not None and isinstance(result, CheckedClaims) and free.claim_id not in result.unexported:
            is_exported = free.claim_id in [each.claim_id for each in result.exported]
            state = "exported" if is_exported else "reserved"
            yield Fault(f"claim {free.claim_id} was let through although it is {state}", answer.message_id)


def _free_passes(timeline: Timeline) -> Iterator[Fault]:
    said = {each.claim_id for each in timeline.said(FREE)}
    for answer in timeline.asked(CHECK_CLAIMS.name):
        if isinstance(answer.result, CheckedClaims):
            for claim_id in answer.result.unexported:
                if claim_id not in said:
                    yield Fault(f"claim {claim_id} is unexported, and the program did not say so", answer.message_id)


def _correlation(timeline: Timeline) -> Iterator[Fault]:
    for free in timeline.said(FREE):
        yield Fault(
            f"claim {free.claim_id} was let through because of an answer to another request: its correlation_id is "
            "another one"
        )


def _final(timeline: Timeline) -> Iterator[Fault]:
    refused = False
    for answer in timeline.asked(CHECK_CLAIMS.name):
        if refused:
            yield Fault("the check was sent again after an error that is not retryable", answer.message_id)
        refused = refused or (answer.error is not None and not answer.error.retryable)


FREE_RULES: Final = (
    Rule("no-answer", "how-to-ask", _no_answer),
    Rule("error-is-not-free", "error-codes", _error_is_not_free),
    Rule("only-unexported", "check-claims", _only_unexported),
)
FREE_PASSES: Final = Rule("free-passes", "check-claims", _free_passes)
CORRELATION: Final = Rule("own-answer", "how-to-ask", _correlation)
FINAL_CHECK: Final = Rule("final-error", "error-codes", _final)
