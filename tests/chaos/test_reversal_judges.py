"""The checker finds each mistake that has to do with an export that was taken back, and nothing else."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from handlers.events import merge_finished
from handlers.reversals import reverse_export
from schema.decoding import decode
from schema.events import RunFinished
from schema.requests import ReverseExport
from tests.chaos.ledger_lines import (
    ORG,
    OTHER_RUN,
    Line,
    check_reply,
    claim_check,
    error_reply,
    finished_event,
    reservation,
    verdict_on,
    written_ledger,
)
from tests.chaos.store import judge_store
from tests.conftest import connected

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

BY_RUN = {"a": [ORG["runId"]]}
PROVEN = [finished_event(), claim_check("0", "a"), check_reply("0", BY_RUN)]
FACTS = {"reason": "refused", "reversedBy": "bob", "approvedBy": "carol"}


def ask(ident: str, *claims: str, **fields: str) -> Line:
    """A request to take the export of these claims back."""
    return "ask", {"id": ident, "op": "reverse-export", "request": {**ORG, **FACTS, "claimIds": [*claims], **fields}}


def accepted(ident: str, *claims: str) -> Line:
    """The answer that these claims were taken back."""
    return "reply", {"id": ident, "reply": {"ok": True, "result": {"runId": ORG["runId"], "reversed": [*claims]}}}


def refused_reservation(ident: str) -> list[Line]:
    """A reservation of claim `a` that is refused, because the first run has exported it."""
    [asked, _] = reservation(ident, OTHER_RUN, 3600, 1)
    conflict = {"claimId": "a", "reason": "exported", "runId": ORG["runId"], "expiresAt": None}
    result = {"granted": [], "conflicts": [conflict], "expiresAt": None, "fencingToken": None}
    return [asked, ("reply", {"id": ident, "reply": {"ok": True, "result": {**result, "expiresAt": 0}}})]


REVERSED = [*PROVEN, ask("1", "a"), accepted("1", "a")]

RIGHT = {
    "not exported any more": [*REVERSED, claim_check("2", "a"), check_reply("2", {}, "a")],
    "repeated": [*REVERSED, ask("2", "a"), accepted("2", "a")],
    "granted to another run": [*REVERSED, *reservation("2", OTHER_RUN, 3600, 1)],
    "gone before the answer": [
        *PROVEN,
        ask("1", "a"),
        claim_check("2", "a"),
        check_reply("2", {}, "a"),
        accepted("1", "a"),
    ],
    "still there before the answer": [
        *PROVEN,
        ask("1", "a"),
        claim_check("2", "a"),
        check_reply("2", BY_RUN),
        accepted("1", "a"),
    ],
    "refused for what may not be exported": [finished_event(), ask("1", "a"), error_reply("1", "CONFLICT")],
    "refused because another reversal came first": [
        *REVERSED,
        ask("2", "a", reason="void"),
        error_reply("2", "CONFLICT"),
    ],
}


@pytest.mark.parametrize("lines", RIGHT.values(), ids=RIGHT.keys())
def test_a_right_answer_is_no_violation(tmp_path: Path, lines: list[Line]) -> None:
    assert verdict_on(tmp_path, *lines).violations == {}


WRONG: dict[str, tuple[list[Line], str]] = {
    "exported again": ([*REVERSED, claim_check("2", "a"), check_reply("2", BY_RUN)], "reversal undone"),
    "a conflict with it": ([*REVERSED, *refused_reservation("2")], "reversal undone"),
    "never exported": ([finished_event(), ask("1", "b"), accepted("1", "b")], "wrong reply"),
    "another claim": ([*PROVEN, ask("1", "b"), accepted("1", "a")], "wrong reply"),
    "nothing": ([*PROVEN, ask("1", "a"), accepted("1")], "wrong reply"),
    "refused without a reason": ([*PROVEN, ask("1", "a"), error_reply("1", "CONFLICT")], "wrong reply"),
    "refused when repeated": ([*REVERSED, ask("2", "a"), error_reply("2", "CONFLICT")], "wrong reply"),
    "an internal error": ([*PROVEN, ask("1", "a"), error_reply("1", "INTERNAL")], "wrong reply"),
}


@pytest.mark.parametrize(("lines", "violation"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_answer_is_a_violation(tmp_path: Path, lines: list[Line], violation: str) -> None:
    assert list(verdict_on(tmp_path, *lines).violations) == [violation]


@pytest.fixture
async def connection(shared_url: str) -> AsyncIterator[Connection]:
    """A connection whose transaction is never committed."""
    connection = await connected(shared_url)
    await connection.transaction().start()
    yield connection
    await connection.close()


def published() -> tuple[dict[str, Any], list[Line]]:
    """A run-finished, as it is published and confirmed."""
    _, fields = finished_event()
    event = {**json.loads(fields["body"]), "schemaVersion": 1}
    message = {**fields, "key": event["eventId"], "body": json.dumps(event)}
    return event, [("publish", message), ("confirm", {"mid": message["mid"], "key": message["key"]})]


SPOILED = {
    "nothing is wrong": ("SELECT", []),
    "the log does not have it": (
        "DELETE FROM export_run_events WHERE event_type = 'export-reversed'",
        ["reversal lost", "wrong in the store"],
    ),
    "its claim is exported": ("UPDATE export_run_claims SET outcome = 'exported'", ["wrong in the store"]),
    "the run does not count it": ("UPDATE export_runs SET reversed_count = 0", ["wrong in the store"]),
    "nobody asked for it": (
        "UPDATE export_run_events SET payload = replace(payload::text, 'bob', 'eve')::json"
        " WHERE event_type = 'export-reversed'",
        ["wrong in the store"],
    ),
}


@pytest.mark.parametrize(("spoil", "violations"), SPOILED.values(), ids=SPOILED.keys())
async def test_a_wrong_store_is_a_violation(
    connection: Connection, tmp_path: Path, spoil: str, violations: list[str]
) -> None:
    event, lines = published()
    await merge_finished(connection, [decode(RunFinished, json.dumps(event).encode())])
    request = {**ORG, **FACTS, "claimIds": ["a"]}
    await reverse_export(connection, decode(ReverseExport, json.dumps(request).encode()))
    await connection.execute("SET LOCAL session_replication_role = replica")
    await connection.execute(spoil)
    with written_ledger(tmp_path, *lines, ask("1", "a"), accepted("1", "a")) as (index, bodies):
        await judge_store(connection, index, bodies)
    assert sorted(index.verdict.violations) == violations


async def test_a_grant_that_the_log_does_not_have(connection: Connection, tmp_path: Path) -> None:
    """Another run was granted the claim after it had been taken back."""
    event, lines = published()
    await merge_finished(connection, [decode(RunFinished, json.dumps(event).encode())])
    request = {**ORG, **FACTS, "claimIds": ["a"]}
    await reverse_export(connection, decode(ReverseExport, json.dumps(request).encode()))
    asked = [ask("1", "a"), accepted("1", "a"), *reservation("2", OTHER_RUN, 3600, 1)]
    with written_ledger(tmp_path, *lines, *asked) as (index, bodies):
        await judge_store(connection, index, bodies)
    assert list(index.verdict.violations) == ["grant after a reversal lost"]
