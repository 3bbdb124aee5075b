"""Amounts, control totals that add up or do not, and details that contradict themselves."""

import json
from typing import Any

import pytest

from handlers.claim_details import details_contradict, totals_disagree
from handlers.claim_outcomes import claim_outcomes
from handlers.digests import finished_digest
from schema.decoding import decode
from schema.events import RunFinished
from tests.wire import Json, run_finished


def end(*claim_ids: str, **fields: Any) -> RunFinished:
    return decode(RunFinished, json.dumps(run_finished(claimIds=claim_ids, **fields)).encode())


def total(claim_count: int, amount: str, currency: str = "EUR") -> Json:
    return {"currency": currency, "claimCount": claim_count, "amount": amount}


def details(claim_id: str, amount: str | None = None, currency: str | None = "EUR", **fields: Any) -> Json:
    return {"claimId": claim_id, "amount": amount, "currency": currency, **fields}


@pytest.mark.parametrize(
    ("told", "answered"),
    [
        ("12.50", "12.50"),
        ("12.5", "12.50"),
        ("12", "12.00"),
        ("+0012.5000", "12.50"),
        ("0.1234", "0.1234"),
        ("0.1230", "0.123"),
        ("-3", "-3.00"),
        ("-0.0000", "0.00"),
        ("9" * 18 + ".9999", "9" * 18 + ".9999"),
    ],
)
def test_an_amount_is_answered_in_one_spelling(told: str, answered: str) -> None:
    assert end(totals=[total(0, told)]).totals[0].amount == answered


A_OF_10_AND_B_OF_5 = [details("a", "10.10"), details("b", "5.20", "CHF")]


@pytest.mark.parametrize(
    ("claim_ids", "fields"),
    [
        ("ab", {}),
        ("ab", {"totals": [total(2, "7")]}),
        ("aab", {"totals": [total(2, "7")]}),
        ("ab", {"totals": [total(1, "7"), total(1, "8", "CHF")]}),
        ("ab", {"totals": [total(2, "7"), total(2, "7.00")]}),
        ("ab", {"totals": [total(1, "10.1"), total(1, "5.2", "CHF")], "claimDetails": A_OF_10_AND_B_OF_5}),
        (
            "ab",
            {"totals": [total(1, "10.1"), total(1, "5.2", "CHF"), total(0, "0", "USD")]}
            | {"claimDetails": A_OF_10_AND_B_OF_5},
        ),
        ("ab", {"totals": [total(2, "99")], "claimDetails": [details("a", "10.10"), details("b")]}),
        ("ab", {"totals": [total(2, "0.3")], "claimDetails": [details("a", "0.1"), details("b", "0.2")]}),
        ("a", {"totals": [total(1, "1")], "claimDetails": [details("a", "1"), details("s", "5")]}),
        ("", {"totals": [total(0, "0")], "skippedClaims": [{"claimId": "s", "reason": "r"}]}),
    ],
)
def test_totals_that_add_up(claim_ids: str, fields: Json) -> None:
    assert not totals_disagree(end(*claim_ids, **fields))


@pytest.mark.parametrize(
    ("claim_ids", "fields"),
    [
        ("ab", {"totals": [total(1, "7")]}),
        ("ab", {"totals": [total(3, "7")]}),
        ("ab", {"totals": [total(1, "7"), total(1, "8")]}),
        ("a", {"totals": [total(2, "7")], "skippedClaims": [{"claimId": "s", "reason": "r"}]}),
        ("ab", {"totals": [total(2, "15.3")], "claimDetails": A_OF_10_AND_B_OF_5}),
        ("ab", {"totals": [total(1, "1"), total(1, "1", "CHF")], "claimDetails": [details("a"), details("b")]}),
        ("ab", {"totals": [total(2, "0.3001")], "claimDetails": [details("a", "0.1"), details("b", "0.2")]}),
        ("a", {"totals": [total(1, "1"), total(0, "1", "CHF")], "claimDetails": [details("a", "1")]}),
    ],
)
def test_totals_that_do_not_add_up(claim_ids: str, fields: Json) -> None:
    assert totals_disagree(end(*claim_ids, **fields))


@pytest.mark.parametrize(
    ("told", "contradicts"),
    [
        ([details("a", "1"), details("s", "2")], False),
        ([details("a", "1"), details(" a", "1.0")], False),
        ([details("x", "1")], True),
        ([details("a", "1"), details("a", "2")], True),
    ],
)
def test_details_of_a_claim_that_is_not_named_or_has_two(told: list[Json], contradicts: bool) -> None:
    event = end("a", skippedClaims=[{"claimId": "s", "reason": "r"}], claimDetails=told)
    assert details_contradict(event, claim_outcomes(event)) is contradicts


def test_digests_count_what_is_told_and_not_how() -> None:
    skipped = {"claimId": "s", "reason": "r"}
    one = end("a", "b", totals=[total(2, "7.0"), total(0, "0", "CHF")], claimDetails=[details("a"), details("b")])
    other = end("b", "a", totals=[total(0, "0.0", "CHF"), total(2, "7")], claimDetails=[details("b "), details("a")])
    assert finished_digest(one) == finished_digest(other)
    events = [
        end("a"),
        end("a", totals=[total(1, "1")]),
        end("a", totals=[total(1, "2")]),
        end("a", claimDetails=[details("a")]),
        end("a", claimDetails=[details("a", voucherId="V-1")]),
        end("a", skippedClaims=[skipped]),
        end("a", skippedClaims=[skipped | {"code": "C"}]),
        end("a", skippedClaims=[skipped | {"code": "D"}]),
    ]
    assert len({finished_digest(event) for event in events}) == len(events)
