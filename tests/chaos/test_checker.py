"""The checker finds the mistakes in a ledger that a test has written_ledger, and nothing else."""

from pathlib import Path

import pytest

from tests.chaos.ledger_lines import (
    ORG,
    OTHER_RUN,
    Line,
    at_once,
    check_reply,
    claim_check,
    error_reply,
    finished_event,
    release,
    reservation,
    run_reply,
    run_request,
    verdict_on,
)
from tests.chaos.rules import claims_of, run_of

BY_RUN = {"a": [ORG["runId"]]}
SEEN = [finished_event(), run_request("0"), run_reply("0", "completed", "a")]
PROVEN = [finished_event(), claim_check("0", "a"), check_reply("0", BY_RUN)]


RIGHT_REPLIES = {
    "an export stays visible": [*PROVEN, claim_check("1", "a", "b"), check_reply("1", BY_RUN, "b")],
    "a published event may not be stored yet": [finished_event(), claim_check("1", "a"), check_reply("1", {}, "a")],
    "published during the request": [claim_check("1", "a"), finished_event(), check_reply("1", BY_RUN)],
    "two requests that overlap": [
        finished_event(),
        claim_check("1", "a"),
        claim_check("2", "a"),
        check_reply("1", BY_RUN),
        check_reply("2", {}, "a"),
    ],
    "unavailable during a fault": [
        *PROVEN,
        ("fault", {"kinds": ["any"]}),
        claim_check("1", "a"),
        error_reply("1", "UNAVAILABLE"),
    ],
    "the run may not be stored yet": [finished_event(), run_request("1"), error_reply("1", "RUN_NOT_FOUND")],
    "a run stays visible": [*SEEN, run_request("2"), run_reply("2", "completed", "a")],
    "answered on the retry": [
        claim_check("1", "a"),
        ("silence", {"id": "1"}),
        claim_check("2", "a", retryOf="1"),
        check_reply("2", {}, "a"),
    ],
}


@pytest.mark.parametrize("lines", RIGHT_REPLIES.values(), ids=RIGHT_REPLIES.keys())
def test_a_right_reply_is_no_violation(tmp_path: Path, lines: list[Line]) -> None:
    assert verdict_on(tmp_path, *lines).violations == {}


WRONG_REPLIES = {
    "an export is forgotten": [*PROVEN, claim_check("1", "a"), check_reply("1", {}, "a")],
    "exported before it was published": [claim_check("1", "a"), check_reply("1", BY_RUN), finished_event()],
    "exported by a failed run": [finished_event(status="failed"), claim_check("1", "a"), check_reply("1", BY_RUN)],
    "exported for another organisation": [finished_event(orgId="p"), claim_check("1", "a"), check_reply("1", BY_RUN)],
    "exported by another run": [*PROVEN, claim_check("1", "a"), check_reply("1", {"a": [OTHER_RUN]})],
    "a claim is missing in the reply": [claim_check("1", "b", "c"), check_reply("1", {}, "b")],
    "another order": [claim_check("1", "b", "c"), check_reply("1", {}, "c", "b")],
    "both exported and not": [finished_event(), claim_check("1", "a"), check_reply("1", BY_RUN, "a")],
    "internal error": [claim_check("1", "a"), error_reply("1", "INTERNAL")],
    "a status nobody published": [finished_event(), run_request("1"), run_reply("1", "failed", "a")],
    "a claim nobody published": [finished_event(), run_request("1"), run_reply("1", "completed", "a", "b")],
    "a status goes down": [*SEEN, run_request("2"), run_reply("2", "pending", "a")],
    "a claim is forgotten": [*SEEN, run_request("2"), run_reply("2", "completed")],
    "a run is forgotten": [*SEEN, run_request("2"), error_reply("2", "RUN_NOT_FOUND")],
    "a value nobody published": [
        finished_event(),
        run_request("1"),
        run_reply("1", "completed", "a", externalAckId="ack-1"),
    ],
    "another number of claims": [finished_event(), run_request("1"), run_reply("1", "completed", "a", claimCount=2)],
    "exported twice by one run": [finished_event(), claim_check("1", "a"), check_reply("1", {"a": 2 * [ORG["runId"]]})],
    "granted though exported": [*PROVEN, *reservation("1", OTHER_RUN, 3600, 1)],
    "a run before it was published": [run_request("1"), run_reply("1", "pending"), finished_event()],
}


@pytest.mark.parametrize("lines", WRONG_REPLIES.values(), ids=WRONG_REPLIES.keys())
def test_a_wrong_reply_is_a_violation(tmp_path: Path, lines: list[Line]) -> None:
    assert list(verdict_on(tmp_path, *lines).violations) == ["wrong reply"]


RIGHT_RESERVATIONS = {
    "expired": [*reservation("1", "r", 0, 1), *reservation("2", "s", 3600, 2, take_expired=True)],
    "released": [*reservation("1", "r", 3600, 1), *release("2", "r"), *reservation("3", "s", 3600, 2)],
    "renewed": [*reservation("1", "r", 3600, 1), *reservation("2", "r", 3600, 1)],
    "the later grant is replied to first": at_once(
        reservation("1", "r", 3600, 2, take_expired=True), reservation("2", "s", 0, 1)
    ),
}


@pytest.mark.parametrize("lines", RIGHT_RESERVATIONS.values(), ids=RIGHT_RESERVATIONS.keys())
def test_a_right_reservation_is_no_violation(tmp_path: Path, lines: list[Line]) -> None:
    assert verdict_on(tmp_path, *lines).violations == {}


WRONG_RESERVATIONS = {
    "two holders": [*reservation("1", "r", 3600, 1), *reservation("2", "s", 3600, 2)],
    "the same token": [*reservation("1", "r", 0, 2), *reservation("2", "s", 3600, 2, take_expired=True)],
    "taken without takeExpired": [*reservation("1", "r", 0, 1), *reservation("2", "s", 3600, 2)],
    "released by another run": [*reservation("1", "r", 3600, 1), *release("2", "s"), *reservation("3", "s", 3600, 2)],
    "two at once": at_once(reservation("1", "r", 3600, 1), reservation("2", "s", 3600, 2)),
}


@pytest.mark.parametrize("lines", WRONG_RESERVATIONS.values(), ids=WRONG_RESERVATIONS.keys())
def test_a_wrong_reservation_is_a_violation(tmp_path: Path, lines: list[Line]) -> None:
    assert list(verdict_on(tmp_path, *lines).violations) == ["wrong reply"]


def test_a_request_without_a_reply_in_calm_is_a_violation(tmp_path: Path) -> None:
    first_check = [claim_check("0", "a"), check_reply("0", {}, "a")]
    lines = [
        *first_check,
        claim_check("1", "a"),
        ("silence", {"id": "1"}),
        claim_check("2", "a", retryOf="1"),
        ("silence", {"id": "2"}),
    ]
    assert list(verdict_on(tmp_path, *lines).violations) == ["unanswered in calm"]
    for number in "12":
        lines[lines.index(("silence", {"id": number}))] = error_reply(number, "UNAVAILABLE")
    assert list(verdict_on(tmp_path / "refused", *lines).violations) == ["unanswered in calm"]
    fault = ("fault", {"kinds": ["any"]})
    assert verdict_on(tmp_path / "second", fault, *lines).violations == {}


def test_a_second_reply_in_calm_is_a_violation(tmp_path: Path) -> None:
    lines = [
        claim_check("0", "a"),
        check_reply("0", {}, "a"),
        claim_check("1", "a"),
        check_reply("1", {}, "a"),
        ("unexpected-reply", {"id": "1"}),
    ]
    assert list(verdict_on(tmp_path, *lines).violations) == ["late or second reply in calm"]
    fault = ("fault", {"kinds": ["any"]})
    assert verdict_on(tmp_path / "second", fault, *lines).violations == {}


def test_the_rules_lead_to_the_run_that_was_worked_out_by_hand() -> None:
    """Two events contradict each other."""
    early = {"eventId": OTHER_RUN, **ORG, "occurredAt": "2026-01-01T00:00:00+00:00"}
    failed = {
        **early,
        "status": "failed",
        "claimIds": ["a", "b"],
        "skippedClaims": [{"claimId": "c", "reason": "z"}],
    }
    partial = {
        **early,
        "eventId": ORG["runId"],
        "occurredAt": "2026-01-02T00:00:00+00:00",
        "status": "partial",
        "claimIds": ["a", "c"],
        "skippedClaims": [{"claimId": "b", "reason": "y"}],
    }
    events = [("run-finished", failed), ("run-finished", partial)]
    for ordered in (events, events[::-1]):
        run = run_of(ordered)
        fields = (
            run["status"],
            run["created_at"].day,
            run["finished_at"].day,
            run["claim_count"],
            run["has_conflict"],
        )
        assert fields == ("partial", 1, 2, 2, True)
        assert claims_of(ordered) == {"a": ("exported", None), "b": ("skipped", "y"), "c": ("exported", None)}
    assert run_of(events[:1])["has_conflict"] is False
