"""The rules of docs/MERGE_RULES.md a second time, in simple Python: the state that a set of events leads to."""

from collections.abc import Collection
from decimal import Decimal
from typing import Any
from uuid import UUID

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
    "trigger",
    "scope",
)


def state_of(events: Collection[RunCreated | RunFinished]) -> dict[str, Any]:
    """The state of one run after all its events."""
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
        "details": _details_of(finished[0]) if finished else {},
        "imported": any(event.imported for event in events),
        "totals_disagree": bool(finished) and _totals_disagree(finished[0]),
        "claim_count": sum(outcome != "skipped" for outcome, _ in claims.values()),
        "skipped_count": sum(outcome == "skipped" for outcome, _ in claims.values()),
        "has_conflict": len({_created_facts(each) for each in created}) > 1
        or len({_finished_facts(each) for each in finished}) > 1
        or any({each.claim_id for each in event.claim_details} - claims_of([event]).keys() for event in finished),
    }
    for fact in CREATED_FACTS:
        state[fact] = getattr(created[0], fact) if created else None
    return state


def claims_of(finished: Collection[RunFinished]) -> dict[str, tuple[str, str | None]]:
    """The highest outcome of each claim, and of the reasons why it was skipped the first in alphabetical order."""
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


def _created_facts(event: RunCreated) -> tuple[object, ...]:
    return tuple(getattr(event, fact) for fact in CREATED_FACTS)


def _finished_facts(event: RunFinished) -> tuple[object, ...]:
    claims = tuple(sorted(claims_of([event]).items()))
    details = frozenset((each.claim_id, each.voucher_id, each.amount, each.currency) for each in event.claim_details)
    codes = frozenset((each.claim_id, each.code) for each in event.skipped_claims if each.code)
    totals = frozenset((each.currency, each.claim_count, each.amount) for each in event.totals)
    return event.status, claims, event.external_ack_id, event.error, details, codes, totals


def _details_of(event: RunFinished) -> dict[str, tuple[str | None, Decimal | None, str | None, str | None]]:
    """The voucher, amount, currency and code of each claim of the event that has one."""
    claims = claims_of([event]).keys()
    codes = {
        claim_id: min(each.code for each in event.skipped_claims if each.claim_id == claim_id and each.code)
        for claim_id in {each.claim_id for each in event.skipped_claims if each.code}
    }
    details = {each.claim_id: each for each in event.claim_details if each.claim_id in claims}
    found: dict[str, tuple[str | None, Decimal | None, str | None, str | None]] = {}
    for claim_id in details.keys() | codes.keys():
        voucher_id, amount, currency = None, None, None
        if each := details.get(claim_id):
            voucher_id, currency = each.voucher_id, each.currency
            amount = None if each.amount is None else Decimal(each.amount)
        found[claim_id] = (voucher_id, amount, currency, codes.get(claim_id))
    return found


def _totals_disagree(event: RunFinished) -> bool:
    if not event.totals:
        return False
    claims = set(event.claim_ids)
    details = {each.claim_id: each for each in event.claim_details if each.claim_id in claims}
    wrong = sum(total.claim_count for total in event.totals) != len(claims)
    currencies = [details[claim_id].currency if claim_id in details else None for claim_id in claims]
    if None not in currencies:
        wrong |= any(currencies.count(total.currency) != total.claim_count for total in event.totals)
        if all(details[claim_id].amount is not None for claim_id in claims):
            for total in event.totals:
                amounts = [Decimal(each.amount or 0) for each in details.values() if each.currency == total.currency]
                wrong |= sum(amounts) != Decimal(total.amount)
    return wrong


def double_exports_of(
    ends: Collection[RunFinished],
    allowed: Collection[tuple[UUID, str, UUID]] = (),
) -> dict[str, set[UUID]]:
    """The double exports that the ends of an organisation's runs make: each claim, and its runs.

    `allowed` are (run, claim, earlier run): the run may repeat that export, by an override, or because it was granted
    the claim after the export had been taken back.
    """
    exporters: dict[str, set[UUID]] = {}
    repeaters: dict[str, set[UUID]] = {}
    for event in ends:
        for claim_id in event.claim_ids if event.status is not RunStatus.FAILED else []:
            exporters.setdefault(claim_id, set()).add(event.run_id)
            if event.claim_ids.count(claim_id) > 1:
                repeaters.setdefault(claim_id, set()).add(event.run_id)
    found = {
        claim_id: repeaters.get(claim_id, set())
        | {
            run_id
            for run_id in run_ids
            for other in run_ids - {run_id}
            if not {(run_id, claim_id, other), (other, claim_id, run_id)}.intersection(allowed)
        }
        for claim_id, run_ids in exporters.items()
    }
    return {claim_id: run_ids for claim_id, run_ids in found.items() if run_ids}
