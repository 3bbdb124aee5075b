"""Two texts tell one event if they mean the same, however they are written."""

import json
from typing import Any

import pytest

from handlers.event_meaning import is_same_event
from schema.events import RunCreated, RunFinished
from tests.wire import Json, run_created, run_finished

CREATED: Json = run_created(
    eventId="6f1c8a52-0d3b-4e97-b1f4-2a9c5d7e8031",
    occurredAt="2026-01-31T09:30:00.120Z",
    runId="b2d04f6a-5c1e-4a7b-9d3f-8e6a2c41f0b7",
    override={"reason": "r", "approvedBy": "bob"},
)
FINISHED: Json = run_finished(
    eventId="91aa3c7e-64f2-4b18-9e05-d8c1b7f0a263",
    runId="b2d04f6a-5c1e-4a7b-9d3f-8e6a2c41f0b7",
    claimIds=["caf\u00e9", "taxi", "taxi"],
    skippedClaims=[{"claimId": "a", "reason": "x", "by": 1.5}, {"claimId": "b", "reason": "y"}],
    artifact={"key": "k", "sha256": "s", "sizeBytes": 1},
)


def same(model: type[RunCreated | RunFinished], one: Json, other: Json) -> bool:
    """In both directions."""
    answers = {is_same_event(model, json.dumps(one), json.dumps(other)) for one, other in ((one, other), (other, one))}
    [answer] = answers
    return answer


@pytest.mark.parametrize(
    "changed",
    [
        {"occurredAt": "2026-01-31T09:30:00.12Z"},
        {"occurredAt": "2026-01-31t09:30:00.120000000z"},
        {"occurredAt": "2026-01-31T09:30:00.120+00:00"},
        {"occurredAt": "2026-01-31T11:00:00.12+01:30"},
        {"occurredAt": "2026-01-31 09:30:00.12-00:00"},
        {"eventId": "6F1C8A52-0D3B-4E97-B1F4-2A9C5D7E8031", "runId": "B2D04F6A-5C1E-4A7B-9D3F-8E6A2C41F0B7"},
        {"eventId": "6f1c8a520d3b4e97b1f42a9c5d7e8031"},
        {"targetSystem": None, "periodStart": None, "retryOfRunId": None},
        {"override": {"approvedBy": "bob", "reason": "r"}},
        {"imported": False},
    ],
)
def test_another_spelling_of_a_start_is_the_same_event(changed: Json) -> None:
    assert same(RunCreated, CREATED, CREATED | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"claimIds": [" cafe\u0301", "taxi", "taxi"]},
        {"claimIds": ["taxi", "caf\u00e9", "ta\u200bxi"]},
        {"skippedClaims": [{"reason": "y", "claimId": "b "}, {"by": 15e-1, "claimId": "a", "reason": "x"}]},
        {"error": None, "externalAckId": None},
        {"imported": False, "alertIfImported": False},
    ],
)
def test_another_spelling_of_an_end_is_the_same_event(changed: Json) -> None:
    assert same(RunFinished, FINISHED, FINISHED | changed)


@pytest.mark.parametrize("empty", [None, []])
def test_a_list_that_is_null_or_empty_is_a_list_that_is_absent(empty: Any) -> None:
    absent = {name: value for name, value in FINISHED.items() if name != "skippedClaims"}
    assert same(RunFinished, absent, absent | {"skippedClaims": empty})


@pytest.mark.parametrize(
    "changed",
    [
        {"occurredAt": "2026-01-31T09:30:00.121Z"},
        {"occurredAt": "2026-01-31T09:30:00.120+01:00"},
        {"triggeredBy": "ALICE"},
        {"triggeredBy": "alice "},
        {"override": {"approvedBy": "bob", "reason": "r "}},
        {"override": None},
        {"override": {"approvedBy": "bob", "reason": "r", "more": None}},
        {"targetSystem": "t"},
        {"unknown": None},
        {"unknown": []},
    ],
)
def test_another_meaning_of_a_start_is_another_event(changed: Json) -> None:
    assert not same(RunCreated, CREATED, CREATED | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"claimIds": ["caf\u00e9", "taxi"]},
        {"claimIds": ["caf\u00e9", "Taxi", "taxi"]},
        {"claimIds": ["caf\u00e9", "caf\u00e9", "taxi"]},
        {"skippedClaims": [{"claimId": "a", "reason": "x", "by": 1}, {"claimId": "b", "reason": "y"}]},
        {"skippedClaims": [{"claimId": "a", "reason": "y", "by": 1.5}, {"claimId": "b", "reason": "x"}]},
        {"artifact": {"key": "k", "sha256": "s", "sizeBytes": 2}},
        {"artifact": {"key": "k", "sha256": "s", "sizeBytes": 1, "unknown": 1}},
    ],
)
def test_another_meaning_of_an_end_is_another_event(changed: Json) -> None:
    assert not same(RunFinished, FINISHED, FINISHED | changed)


HUGE = "9" * 4_000


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("1", "1.0", True),
        ("100", "1e2", True),
        ("1.50e+200000", "15E199999", True),
        ("-0", "0", True),
        ('{"a": 1, "b": [2, {}]}', '{ "b": [2.0,{}], "a": 1}', True),
        ('"\\u00e9"', '"\u00e9"', True),
        (HUGE, f"{HUGE}.0", True),
        ("1e200000", "2e200000", False),
        ("1e99999999999999999999", "2e99999999999999999999", False),
        ("1", '"1"', False),
        ("1", "true", False),
        ("0", "false", False),
        ("null", "false", False),
        ('"1.5"', "1.5", False),
        ("[]", "{}", False),
        ("[1, 2]", "[2, 1]", False),
        ('" a"', '"a"', False),
        ('"e\u0301"', '"\u00e9"', False),
        ('"2026-01-31T09:30:00Z"', '"2026-01-31T09:30:00+00:00"', False),
    ],
)
def test_an_unknown_field_counts_by_its_json_value(one: str, other: str, is_same: bool) -> None:
    """Even where a known field beside it is written in another way."""
    start = json.dumps(CREATED)[:-1]
    moved = json.dumps(CREATED | {"occurredAt": "2026-01-31T09:30:00.12+00:00"})[:-1]
    for first in (start, moved):
        texts = [f'{first}, "unknown": {one}}}', f'{start}, "unknown": {other}}}']
        assert is_same_event(RunCreated, *texts) is is_same


def test_what_cannot_be_read_any_more_is_the_same_only_if_its_json_is() -> None:
    unreadable = CREATED | {"triggeredBy": ""}
    assert is_same_event(RunCreated, json.dumps(unreadable), json.dumps(unreadable, indent=1))
    assert not same(RunCreated, unreadable, unreadable | {"occurredAt": "2026-01-31T09:30:00.12Z"})
