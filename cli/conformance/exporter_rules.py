"""The rules about what an exporter pays, and what it reports."""

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from cli.conformance.rules import Fault, Rule
from cli.conformance.timeline import Answer, Spoken, Timeline
from schema.events import RUN_CREATED, RunStatus
from schema.operations import RELEASE_CLAIMS, RESERVE_CLAIMS
from schema.requests import ReleaseClaims, ReservationMode, ReserveClaims
from schema.results import ReservedClaims

PAID: Final = "paid"
"""The word of the line that a program prints when the money of a claim moves."""

SLACK_S: Final = 1.5
"""A payment that had begun may end so much later than it should have taken."""


def _reservations(timeline: Timeline) -> Iterator[tuple[Answer, ReserveClaims]]:
    for answer in timeline.asked(RESERVE_CLAIMS.name):
        assert isinstance(answer.request, ReserveClaims)
        yield answer, answer.request


def _grants(timeline: Timeline) -> Iterator[tuple[float, ReserveClaims, ReservedClaims]]:
    """What was granted or renewed, and when."""
    for answer, request in _reservations(timeline):
        if isinstance(answer.result, ReservedClaims) and answer.result.granted and answer.at_s is not None:
            yield answer.at_s, request, answer.result


def _held_s(timeline: Timeline, paid: Spoken) -> float | None:
    """How long before a payment its claim was last granted or renewed; None if it was not."""
    granted = [at_s for at_s, _, result in _grants(timeline) if paid.claim_id in result.granted and at_s <= paid.at_s]
    return paid.at_s - granted[-1] if granted else None


def _paid_without_grant(timeline: Timeline) -> Iterator[tuple[Spoken, Answer]]:
    """Each claim that was paid before it was granted, and the last reservation of it until then."""
    first: dict[str, Spoken] = {}
    for paid in timeline.said(PAID):
        first.setdefault(paid.claim_id, paid)
    for claim_id, paid in first.items():
        if any(claim_id in result.granted and at_s <= paid.at_s for at_s, _, result in _grants(timeline)):
            continue
        asked = [answer for answer, _ in _reservations(timeline) if answer.asked_at_s <= paid.at_s]
        if asked:  # who never asks breaks the rule to ask
            yield paid, next((answer for answer in reversed(asked) if answer.at_s is not None), asked[-1])


def _no_answer(timeline: Timeline) -> Iterator[Fault]:
    for paid, answer in _paid_without_grant(timeline):
        if answer.at_s is None or answer.at_s > paid.at_s:
            sentence = f"claim {paid.claim_id} was paid although nobody had answered the reservation"
            yield Fault(sentence, answer.message_id)


def _error_is_no_grant(timeline: Timeline) -> Iterator[Fault]:
    for paid, answer in _paid_without_grant(timeline):
        if answer.error is not None and answer.at_s is not None and answer.at_s <= paid.at_s:
            sentence = f"claim {paid.claim_id} was paid although the reservation was answered {answer.error}"
            yield Fault(sentence, answer.message_id)


def _only_granted(timeline: Timeline) -> Iterator[Fault]:
    for paid, answer in _paid_without_grant(timeline):
        if answer.result is not None and answer.at_s is not None and answer.at_s <= paid.at_s:
            sentence = f"claim {paid.claim_id} was paid although no reservation had granted it"
            yield Fault(sentence, answer.message_id)


def _paid_twice(timeline: Timeline) -> Iterator[Fault]:
    seen: set[str] = set()
    for paid in timeline.said(PAID):
        if paid.claim_id in seen:
            yield Fault(f"claim {paid.claim_id} was paid twice")
        seen.add(paid.claim_id)


def _reported(timeline: Timeline) -> set[str]:
    """The claims that some run reported as exported."""
    return {claim for _, end in timeline.ends() if end.status is not RunStatus.FAILED for claim in end.claim_ids}


def _report_paid(timeline: Timeline) -> Iterator[Fault]:
    reported = _reported(timeline)
    for paid in timeline.said(PAID):
        if paid.at_s > timeline.killed_at_s() and paid.claim_id not in reported:
            yield Fault(f"claim {paid.claim_id} was paid, and no run-finished (completed or partial) has it")


def _after_crash(timeline: Timeline) -> Iterator[Fault]:
    reported = _reported(timeline)
    for paid in timeline.said(PAID):
        if paid.at_s <= timeline.killed_at_s() and paid.claim_id not in reported:
            sentence = "was paid before the crash, and no run-finished (completed or partial) has it"
            yield Fault(f"claim {paid.claim_id} {sentence}")


def _report_only_paid(timeline: Timeline) -> Iterator[Fault]:
    """A claim in doubt may be reported, if the error says so."""
    paid = {each.claim_id for each in timeline.said(PAID)}
    for publication, end in timeline.ends():
        if end.status is RunStatus.FAILED or (end.status is RunStatus.PARTIAL and end.error is not None):
            continue
        for claim_id in end.claim_ids:
            if claim_id not in paid:
                sentence = f"the run-finished says that claim {claim_id} is exported, and it was not paid"
                yield Fault(sentence, publication.message_id)


def _tell_start(timeline: Timeline) -> Iterator[Fault]:
    # One that is not valid breaks another rule.
    created = {each.run_id() for each in timeline.events() if each.routing_key == RUN_CREATED}
    for run_id in dict.fromkeys(request.run_id for _, request, _ in _grants(timeline)):
        if str(run_id) not in created:
            yield Fault(f"run {run_id} reserved claims, and there is no run-created of it")


def _tell_end(timeline: Timeline) -> Iterator[Fault]:
    ended = {end.run_id for _, end in timeline.ends()}
    runs: dict[UUID, float] = {}
    for at_s, request, _ in _grants(timeline):
        runs.setdefault(request.run_id, at_s)
    for run_id, at_s in runs.items():
        if run_id not in ended and at_s > timeline.killed_at_s():
            yield Fault(f"run {run_id} was granted claims, and there is no valid run-finished of it")


def _release(timeline: Timeline) -> Iterator[Fault]:
    """Claims that may have been granted without the exporter's knowledge are given back, or asked for again."""
    free = {end.run_id for _, end in timeline.ends()}
    releases = [each.request for each in timeline.asked(RELEASE_CLAIMS.name)]
    free |= {request.run_id for request in releases if isinstance(request, ReleaseClaims)}
    last = {request.run_id: answer for answer, request in _reservations(timeline)}
    for run_id, answer in last.items():
        if answer.result is None and run_id not in free:
            heard = "nothing" if answer.error is None else str(answer.error)
            sentence = (
                f"run {run_id} heard {heard}, and did not ask again, release the claims or end: they may be reserved"
            )
            yield Fault(sentence, answer.message_id)


def _final(timeline: Timeline) -> Iterator[Fault]:
    refused: dict[UUID, str] = {}
    for answer, request in _reservations(timeline):
        if request.run_id in refused:
            code = refused[request.run_id]
            yield Fault(f"the reservation was sent again after {code}, which is not retryable", answer.message_id)
        if answer.error is not None and not answer.error.retryable:
            refused[request.run_id] = answer.error


def _renewal_form(timeline: Timeline) -> Iterator[Fault]:
    for answer, request in _reservations(timeline):
        if answer.is_renewal and (request.mode is not ReservationMode.ALL_OR_NOTHING or request.take_expired):
            yield Fault("a renewal must have the mode all-or-nothing, and no takeExpired", answer.message_id)


def _renew(timeline: Timeline) -> Iterator[Fault]:
    if not any(answer.is_renewal for answer, _ in _reservations(timeline)):
        yield Fault("the lease was never renewed: no reservation of the same claims for the same run came again")
        return
    lease_s = timeline.task.lease_s
    for paid in timeline.said(PAID):
        held_s = _held_s(timeline, paid)
        if held_s is not None and held_s > lease_s:
            held = f"{held_s:.1f} s after its lease of {lease_s} s was last granted or renewed"
            yield Fault(f"claim {paid.claim_id} was paid {held}")


def _stop_at_refusal(timeline: Timeline) -> Iterator[Fault]:
    lost = next((answer for answer, _ in _reservations(timeline) if answer.is_lost), None)
    if lost is None or lost.at_s is None:
        return  # nothing was renewed: another scenario finds that
    for paid in timeline.said(PAID):
        late_s = paid.at_s - lost.at_s
        if late_s > timeline.task.pay_s + SLACK_S:
            late = f"{late_s:.1f} s after the renewal had said that the lease is lost"
            yield Fault(f"claim {paid.claim_id} was paid {late}", lost.message_id)


def _stop_at_two_thirds(timeline: Timeline) -> Iterator[Fault]:
    lease_s = timeline.task.lease_s
    trusted_s = lease_s * 2 / 3
    for paid in timeline.said(PAID):
        held_s = _held_s(timeline, paid)
        if held_s is not None and held_s > trusted_s + timeline.task.pay_s + SLACK_S:
            yield Fault(
                f"claim {paid.claim_id} was paid {held_s:.1f} s after the grant: a lease of {lease_s} s that could not "
                f"be renewed is not to be trusted after {trusted_s:g} s"
            )


PAYMENT_RULES: Final = (
    Rule("no-answer", "how-to-ask", _no_answer),
    Rule("error-is-no-grant", "error-codes", _error_is_no_grant),
    Rule("only-granted", "reservations", _only_granted),
    Rule("pay-once", "reservations", _paid_twice),
    Rule("renewal-form", "reservations", _renewal_form),
)
REPORT_RULES: Final = (
    Rule("report-paid", "run-finished", _report_paid),
    Rule("report-only-paid", "run-finished", _report_only_paid),
)
RUN_RULES: Final = (
    Rule("tell-start", "run-created", _tell_start),
    Rule("tell-end", "run-finished", _tell_end),
)
RELEASE: Final = Rule("release", "how-to-ask", _release)
FINAL_RESERVATION: Final = Rule("final-error", "error-codes", _final)
RENEW: Final = Rule("renew", "reservations", _renew)
STOP_AT_REFUSAL: Final = Rule("stop-at-refusal", "reservations", _stop_at_refusal)
STOP_AT_TWO_THIRDS: Final = Rule("stop-at-two-thirds", "reservations", _stop_at_two_thirds)
AFTER_CRASH: Final = Rule("after-crash", "reservations", _after_crash)
