"""What the end of a run says of its claims beside their outcomes: vouchers, amounts, codes, and the control totals."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from uuid import UUID

import sql
from schema.events import FinishedFacts, RunFinished
from schema.fields import ClaimDetails, ControlTotal
from sql.connection import Connection

from .claim_outcomes import ClaimOutcomes
from .query_arguments import ClaimDetailsRow, column_arrays


async def store_claim_details(
    connection: Connection, events: Collection[RunFinished], outcomes: Mapping[UUID, ClaimOutcomes]
) -> None:
    """Write the details and the codes of the claims of events that are merged; nothing where there are none.

    Each event has rows of its own, and those of the event that a run has its facts from count. So nothing that is
    written depends on the order of the events.
    """
    if rows := [row for event in events for row in _rows(event, outcomes[event.event_id])]:
        await connection.execute(sql.query("insert_claim_details"), *column_arrays(rows))


def details_contradict(facts: FinishedFacts, outcomes: ClaimOutcomes) -> bool:
    """Whether the details name a claim that the same facts do not name, or say two things of one claim."""
    details = {(each.claim_id, each) for each in facts.claim_details} if facts.claim_details else set()
    named = {claim_id for claim_id, _ in details}
    return len(named) < len(details) or not named <= outcomes.keys()


def totals_disagree(facts: FinishedFacts) -> bool:
    """Whether the control totals do not add up to the claims of the same facts (docs/MERGE_RULES.md)."""
    if not facts.totals:
        return False
    totals = set(facts.totals)
    by_currency = {total.currency: total for total in totals}
    claims = set(facts.claim_ids)
    if len(by_currency) < len(totals) or sum(total.claim_count for total in totals) != len(claims):
        return True
    details = [each for each in _one_for_each_claim(facts) if each.claim_id in claims]
    if len(details) < len(claims) or any(each.currency is None for each in details):
        return False
    counts = Counter(each.currency for each in details)
    if any(total.claim_count != counts[currency] for currency, total in by_currency.items()):
        return True
    if any(each.amount is None for each in details):
        return False
    sums = dict.fromkeys(by_currency, Decimal(0))
    for each in details:
        if each.currency is not None and each.amount is not None:
            sums[each.currency] += Decimal(each.amount)
    return any(Decimal(total.amount) != sums[currency] for currency, total in by_currency.items())


def totals_to_json(facts: FinishedFacts) -> str | None:
    """The control totals as the run's row has them, in the order of the currencies."""
    if not facts.totals:
        return None
    return json.dumps(sorted({(total.currency, total.claim_count, total.amount) for total in facts.totals}))


def totals_of_json(text: str | None) -> list[ControlTotal]:
    """The control totals of a run's row."""
    return [
        ControlTotal.model_construct(currency=currency, claim_count=claim_count, amount=amount)
        for currency, claim_count, amount in (json.loads(text) if text else ())
    ]


def _rows(event: RunFinished, outcomes: ClaimOutcomes) -> Iterator[ClaimDetailsRow]:
    codes: dict[str, str] = {}
    for skipped in event.skipped_claims:
        if skipped.code is not None:
            codes[skipped.claim_id] = min(skipped.code, codes.get(skipped.claim_id, skipped.code))
    details = {each.claim_id: each for each in _one_for_each_claim(event) if each.claim_id in outcomes}
    for claim_id in details.keys() | codes.keys():
        each = details.get(claim_id) or ClaimDetails.model_construct(claim_id=claim_id)
        yield ClaimDetailsRow(
            claim_id=claim_id,
            org_id=event.org_id,
            run_id=event.run_id,
            event_id=event.event_id,
            voucher_id=each.voucher_id,
            voucher_url=each.voucher_url,
            amount=each.amount,
            currency=each.currency,
            skip_code=codes.get(claim_id),
        )


def _one_for_each_claim(facts: FinishedFacts) -> list[ClaimDetails]:
    """The details of each claim; of several the first, where what is absent comes before what is given."""
    first: dict[str, ClaimDetails] = {}
    for each in sorted(facts.claim_details, key=_sort_key):
        first.setdefault(each.claim_id, each)
    return list(first.values())


def _sort_key(details: ClaimDetails) -> list[str]:
    return [value or "" for value in (details.voucher_id, details.voucher_url, details.amount, details.currency)]
