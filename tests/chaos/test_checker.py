"""The checker finds what is wrong in a ledger that we write ourselves, and nothing else."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import Bodies, Book, Verdict
from tests.chaos.ledger import Ledger
from tests.chaos.rules import claims_of, run_of

ORG = {"orgId": "o", "runId": "11111111-1111-4111-8111-111111111111"}
OTHER_RUN = "22222222-2222-4222-8222-222222222222"
AT = "2026-01-01T00:00:00+00:00"
Line = tuple[str, dict[str, Any]]


def published(key: str = "e", **fields: Any) -> Line:
    """A run-finished that exports claim `a`."""
    event = {"eventId": OTHER_RUN, **ORG, "occurredAt": AT, "status": "completed", "claimIds": ["a"], **fields}
    return "publish", {"mid": f"m-{key}", "key": key, "type": "run-finished", "body": json.dumps(event)}


def asked(ident: str, *claims: str, **more: Any) -> Line:
    """A claim check."""
    request = {"orgId": "o", "claimIds": list(claims)}
    return "ask", {"id": ident, "op": "check-claims", "request": request, **more}


def told(ident: str, exported: dict[str, list[str]], *unexported: str) -> Line:
    """Its answer."""
    lists = {"exported": [*exported.items()], "reserved": [], "unexported": list(unexported)}
    return "reply", {"id": ident, "reply": {"ok": True, **lists}}


def reservation(ident: str, run: str, ttl_s: float, token: int, *, take_expired: bool = False) -> list[Line]:
    """A reservation of claim `a` that is granted. One that lives for no time is over at once."""
    asks = {"orgId": "o", "runId": run, "claimIds": ["a"], "mode": "all-or-nothing", "ttlSeconds": ttl_s}
    result = {"granted": ["a"], "conflicts": [], "expiresAt": ttl_s, "fencingToken": token}
    return [
        ("ask", {"id": ident, "op": "reserve-claims", "request": {**asks, "takeExpired": take_expired}}),
        ("reply", {"id": ident, "reply": {"ok": True, "result": result}}),
    ]


def at_once(*reservations: list[Line]) -> list[Line]:
    """All are asked for before the first is told."""
    return [line for lines in zip(*reservations, strict=True) for line in lines]


def dated(reply: dict[str, Any]) -> dict[str, Any]:
    """The time to live as a time."""
    ttl_s = reply["result"]["expiresAt"]
    expires_at = datetime.fromtimestamp(time.time() + ttl_s, UTC).isoformat()
    return {**reply, "result": {**reply["result"], "expiresAt": expires_at}}


def released(ident: str, run: str) -> list[Line]:
    """A release of all that a run holds."""
    return [
        ("ask", {"id": ident, "op": "release-claims", "request": {"orgId": "o", "runId": run}}),
        ("reply", {"id": ident, "reply": {"ok": True, "result": {"releasedCount": 1}}}),
    ]


def run_asked(ident: str) -> Line:
    """A question for the run."""
    return "ask", {"id": ident, "op": "get-export-run-by-id", "request": {"runId": ORG["runId"]}}


def run_told(ident: str, status: str, *claims: str, **others: Any) -> Line:
    """Its answer."""
    unknown = ("triggeredBy", "format", "targetSystem", "periodStart", "periodEnd", "retryOfRunId", "override")
    unsaid = ("error", "artifact", "externalAckId")
    run = {
        **ORG,
        **dict.fromkeys(unknown + unsaid),
        "status": status,
        "createdAt": AT,
        "finishedAt": AT,
        "claimIds": list(claims),
        "skippedClaims": [],
        "claimCount": len(claims),
        "skippedCount": 0,
        "hasConflict": False,
        **others,
    }
    return "reply", {"id": ident, "reply": {"ok": True, "result": run}}


def refused(ident: str, code: str) -> Line:
    """An error."""
    return "reply", {"id": ident, "reply": {"ok": False, "error": {"code": code}}}


@contextmanager
def written(tmp_path: Path, *lines: Line) -> Iterator[tuple[Book, Bodies]]:
    """The book of a ledger that has these lines; one that names its time `t` gets it."""
    tmp_path.mkdir(exist_ok=True)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for kind, facts in lines:
        is_lease = "expiresAt" in facts.get("reply", {}).get("result", {})
        ledger.note(kind, **(facts | {"reply": dated(facts["reply"])} if is_lease else facts))
    ledger.close()
    with Bodies.of(ledger.path) as bodies:
        book = Book(Verdict(), bodies)
        book.read(ledger.path)
        yield book, bodies


def verdict_on(tmp_path: Path, *lines: Line) -> Verdict:
    """What the checker says of a ledger."""
    with written(tmp_path, *lines) as (book, _):
        book.judge_silence()
        book.judge_unawaited()
    return book.verdict


BY_RUN = {"a": [ORG["runId"]]}
SEEN = [published(), run_asked("0"), run_told("0", "completed", "a")]
PROVEN = [published(), asked("0", "a"), told("0", BY_RUN)]


@pytest.mark.parametrize(
    "lines",
    [
        [*PROVEN, asked("1", "a", "b"), told("1", BY_RUN, "b")],
        [published(), asked("1", "a"), told("1", {}, "a")],
        [asked("1", "a"), published(), told("1", BY_RUN)],
        [published(), asked("1", "a"), asked("2", "a"), told("1", BY_RUN), told("2", {}, "a")],
        [*PROVEN, asked("1", "a"), refused("1", "UNAVAILABLE")],
        [published(), run_asked("1"), refused("1", "RUN_NOT_FOUND")],
        [*SEEN, run_asked("2"), run_told("2", "completed", "a")],
        [asked("1", "a"), ("silence", {"id": "1"}), asked("2", "a", retryOf="1"), told("2", {}, "a")],
    ],
    ids=[
        "known is exported",
        "published may not be stored yet",
        "published while asked",
        "two answers that overlap",
        "unavailable",
        "run may not be stored yet",
        "run stays",
        "cured by the retry",
    ],
)  # fmt: skip
def test_right_replies(tmp_path: Path, lines: list[Line]) -> None:
    assert verdict_on(tmp_path, *lines).found == {}


@pytest.mark.parametrize(
    "lines",
    [
        [*PROVEN, asked("1", "a"), told("1", {}, "a")],
        [asked("1", "a"), told("1", BY_RUN), published()],
        [published(status="failed"), asked("1", "a"), told("1", BY_RUN)],
        [published(orgId="p"), asked("1", "a"), told("1", BY_RUN)],
        [*PROVEN, asked("1", "a"), told("1", {"a": [OTHER_RUN]})],
        [asked("1", "b", "c"), told("1", {}, "b")],
        [asked("1", "b", "c"), told("1", {}, "c", "b")],
        [published(), asked("1", "a"), told("1", BY_RUN, "a")],
        [asked("1", "a"), refused("1", "INTERNAL")],
        [published(), run_asked("1"), run_told("1", "failed", "a")],
        [published(), run_asked("1"), run_told("1", "completed", "a", "b")],
        [*SEEN, run_asked("2"), run_told("2", "pending", "a")],
        [*SEEN, run_asked("2"), run_told("2", "completed")],
        [*SEEN, run_asked("2"), refused("2", "RUN_NOT_FOUND")],
        [published(), run_asked("1"), run_told("1", "completed", "a", externalAckId="ack-1")],
        [published(), run_asked("1"), run_told("1", "completed", "a", claimCount=2)],
        [published(), asked("1", "a"), told("1", {"a": 2 * [ORG["runId"]]})],
        [*PROVEN, *reservation("1", OTHER_RUN, 3600, 1)],
        [run_asked("1"), run_told("1", "pending"), published()],
    ],
    ids=[
        "exported is forgotten",
        "exported before it was published",
        "exported by a failed run",
        "exported for another organisation",
        "exported by another run",
        "a claim is not answered",
        "another order",
        "both exported and not",
        "internal error",
        "a status nobody published",
        "a claim nobody published",
        "a status goes down",
        "a claim is forgotten",
        "a run is forgotten",
        "a fact nobody published",
        "another number of claims",
        "exported twice by one run",
        "granted though exported",
        "a run before it was published",
    ],
)  # fmt: skip
def test_wrong_replies(tmp_path: Path, lines: list[Line]) -> None:
    assert list(verdict_on(tmp_path, *lines).found) == ["wrong reply"]


@pytest.mark.parametrize(
    "lines",
    [
        [*reservation("1", "r", 0, 1), *reservation("2", "s", 3600, 2, take_expired=True)],
        [*reservation("1", "r", 3600, 1), *released("2", "r"), *reservation("3", "s", 3600, 2)],
        [*reservation("1", "r", 3600, 1), *reservation("2", "r", 3600, 1)],
        at_once(reservation("1", "r", 3600, 2, take_expired=True), reservation("2", "s", 0, 1)),
    ],
    ids=["expired", "released", "renewed", "the later one was told first"],
)
def test_right_reservations(tmp_path: Path, lines: list[Line]) -> None:
    assert verdict_on(tmp_path, *lines).found == {}


@pytest.mark.parametrize(
    "lines",
    [
        [*reservation("1", "r", 3600, 1), *reservation("2", "s", 3600, 2)],
        [*reservation("1", "r", 0, 2), *reservation("2", "s", 3600, 2, take_expired=True)],
        [*reservation("1", "r", 0, 1), *reservation("2", "s", 3600, 2)],
        [*reservation("1", "r", 3600, 1), *released("2", "s"), *reservation("3", "s", 3600, 2)],
        at_once(reservation("1", "r", 3600, 1), reservation("2", "s", 3600, 2)),
    ],
    ids=["two holders", "a token comes again", "taken without a word", "released by another", "two at once"],
)
def test_wrong_reservations(tmp_path: Path, lines: list[Line]) -> None:
    assert list(verdict_on(tmp_path, *lines).found) == ["wrong reply"]


def test_silence_in_calm(tmp_path: Path) -> None:
    answered = [asked("0", "a"), told("0", {}, "a")]
    asks = [
        *answered,
        asked("1", "a"),
        ("silence", {"id": "1"}),
        asked("2", "a", retryOf="1"),
        ("silence", {"id": "2"}),
    ]
    assert list(verdict_on(tmp_path, *asks).found) == ["unanswered in calm"]
    for number in "12":
        asks[asks.index(("silence", {"id": number}))] = refused(number, "UNAVAILABLE")
    assert list(verdict_on(tmp_path / "refused", *asks).found) == ["unanswered in calm"]
    fault = ("fault", {"kinds": ["any"]})
    assert verdict_on(tmp_path / "second", fault, *asks).found == {}


def test_a_second_reply_in_calm(tmp_path: Path) -> None:
    asks = [asked("0", "a"), told("0", {}, "a"), asked("1", "a"), told("1", {}, "a"), ("unawaited", {"id": "1"})]
    assert list(verdict_on(tmp_path, *asks).found) == ["late or second reply in calm"]
    fault = ("fault", {"kinds": ["any"]})
    assert verdict_on(tmp_path / "second", fault, *asks).found == {}


def test_the_rules() -> None:
    """Worked out by hand: two events that contradict each other, and what they come to."""
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
        facts = (
            run["status"],
            run["created_at"].day,
            run["finished_at"].day,
            run["claim_count"],
            run["has_conflict"],
        )
        assert facts == ("partial", 1, 2, 2, True)
        assert claims_of(ordered) == {"a": ("exported", None), "b": ("skipped", "y"), "c": ("exported", None)}
    assert run_of(events[:1])["has_conflict"] is False
