"""Each request that contradicts what is stored is refused with its reason. Nothing is stored."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import encode
from tests.acceptance.bad_messages.requests import VALID, refusal, stored_rows
from tests.wire import Json, Wire, run_created, run_finished


@pytest.mark.parametrize("event", [run_created(), run_finished()], ids=["created", "finished"])
async def test_a_run_of_another_organisation_is_refused_as_unknown(
    wire: Wire, connection: Connection, event: Json
) -> None:
    """The refusal is the same as for a run that does not exist, and nothing changes."""
    await wire.publish("run-created" if "format" in event else "run-finished", event)
    known = await wire.until_run(event["runId"])
    before = await stored_rows(connection)
    for operation in ("get-export-run-by-id", "update-export-run-status", "delete-export-run"):
        for org_id in ("org-2", "ORG-1", "org-1 "):
            request = {**VALID[operation], "orgId": org_id}
            refused = await wire.error(operation, {**request, "runId": event["runId"]})
            assert refused["code"] == "RUN_NOT_FOUND"
            assert refused == await wire.error(operation, {**request, "runId": str(uuid4())})
    request_for_it = {**VALID["create-export-run"], "orgId": "org-2", "runId": event["runId"]}
    assert await refusal(wire, "create-export-run", encode(request_for_it)) == ("CONFLICT", ["runId"])
    assert await stored_rows(connection) == before
    assert await wire.run(event["runId"]) == known


@pytest.mark.parametrize("org", [{}, {"orgId": "org-1"}], ids=["without orgId", "with orgId"])
@pytest.mark.parametrize("operation", ["get-export-run-by-id", "update-export-run-status", "delete-export-run"])
async def test_an_unknown_run_is_refused(wire: Wire, connection: Connection, operation: str, org: Json) -> None:
    code, _ = await refusal(wire, operation, encode({**VALID[operation], **org}))
    assert code == "RUN_NOT_FOUND"
    assert await stored_rows(connection) == [[], [], []]


async def test_a_request_cannot_lower_a_status(wire: Wire, connection: Connection) -> None:
    """The answer is CONFLICT, and nothing is stored. To raise it is possible."""
    run = await wire.result("create-export-run", **VALID["create-export-run"])
    statuses = ["failed", "partial", "completed"]
    for height, status in enumerate(statuses):
        update: Json = {"runId": run["runId"], "status": status, "claimIds": [f"c-{height}"]}
        assert (await wire.result("update-export-run-status", **update))["status"] == status
        before = await stored_rows(connection)
        for lower in statuses[:height]:
            body = encode({**update, "status": lower})
            assert await refusal(wire, "update-export-run-status", body) == ("CONFLICT", ["status"])
        pending = encode({**update, "status": "pending"})
        assert await refusal(wire, "update-export-run-status", pending) == ("INVALID_REQUEST", ["status"])
        assert await stored_rows(connection) == before


CREATED: Json = {
    **VALID["create-export-run"],
    "targetSystem": "ledger",
    "periodStart": "2026-01-01",
    "periodEnd": "2026-01-31",
    "retryOfRunId": str(uuid4()),
    "trigger": "manual",
    "scope": "chapter 7",
    "override": {"reason": "why", "approvedBy": "bob"},
}
FINISHED: Json = {
    "status": "completed",
    "claimIds": ["c-1", "c-2"],
    "skippedClaims": [{"claimId": "c-3", "reason": "why"}],
    "error": {"code": "E", "detail": "why"},
    "artifact": {"key": "1.csv", "sha256": "ab", "sizeBytes": 1},
    "externalAckId": "ack-1",
}
DELETED: Json = {"deletedBy": "bob", "reason": "why"}

OTHER_FIELDS: dict[str, dict[str, list[Any]]] = {
    "create-export-run": {
        "orgId": ["org-2"],
        "triggeredBy": ["mallory", "Alice"],
        "format": ["xml"],
        "targetSystem": ["other", None, ...],
        "periodStart": ["2026-01-02", ...],
        "periodEnd": ["2026-02-01", None],
        "retryOfRunId": [str(uuid4()), ...],
        "trigger": ["api", None, ...],
        "scope": ["chapter 8", ...],
        "override": [{"reason": "other", "approvedBy": "bob"}, {"reason": "why", "approvedBy": "eve"}, None],
    },
    "update-export-run-status": {
        "claimIds": [["c-1"], ["c-1", "c-2", "c-4"], [], ["c-1", "c-2", "c-3"]],
        "skippedClaims": [
            [],
            ...,
            [{"claimId": "c-3", "reason": "other"}],
            [{"claimId": "c-4", "reason": "why"}],
        ],
        "error": [None, {"code": "E", "detail": "other"}],
        "artifact": [..., {"key": "1.csv", "sha256": "ab", "sizeBytes": 2}],
        "externalAckId": ["ack-2", None],
    },
    "delete-export-run": {"deletedBy": ["eve"], "reason": ["other"]},
}


@pytest.mark.parametrize("operation", OTHER_FIELDS)
async def test_a_repetition_with_different_fields_is_refused(
    wire: Wire, connection: Connection, operation: str
) -> None:
    """The answer is CONFLICT, and nothing is stored. A repetition with the same fields is accepted."""
    run_id = str(uuid4())
    requests = {
        "create-export-run": {"runId": run_id, **CREATED},
        "update-export-run-status": {"runId": run_id, **FINISHED},
        "delete-export-run": {"runId": run_id, **DELETED},
    }
    for each, body in requests.items():
        await wire.result(each, **body)
    known = await wire.run(run_id)
    before = await stored_rows(connection)
    codes = {
        f"{field} {value}": (await refusal(wire, operation, encode({**requests[operation], field: value})))[0]
        for field, values in OTHER_FIELDS[operation].items()
        for value in values
    }
    assert {change: code for change, code in codes.items() if code != "CONFLICT"} == {}
    repetition = await wire.ask(operation, encode(dict(reversed(requests[operation].items()))))
    assert repetition["ok"] is True, repetition
    if operation == "update-export-run-status":
        reordered = {**requests[operation], "claimIds": ["c-2", "c-1"], "orgId": "org-1"}
        assert (await wire.ask(operation, reordered))["ok"] is True
    assert await stored_rows(connection) == before
    assert await wire.run(run_id) == known


async def test_of_20_requests_that_contradict_each_other_one_is_stored(wire: Wire, connection: Connection) -> None:
    """They are sent at the same time. The answer to all others is CONFLICT."""
    run_id = str(uuid4())
    creates = await asyncio.gather(
        *(
            wire.ask("create-export-run", {**VALID["create-export-run"], "runId": run_id, "format": f"f-{number}"})
            for number in range(20)
        )
    )
    updates = await asyncio.gather(
        *(
            wire.ask(
                "update-export-run-status",
                {"runId": run_id, "status": "completed", "claimIds": [f"c-{number}"]},
            )
            for number in range(20)
        )
    )
    for replies in (creates, updates):
        assert sum(reply["ok"] for reply in replies) == 1
        assert {reply["error"]["code"] for reply in replies if not reply["ok"]} == {"CONFLICT"}
    [winner] = [reply["result"] for reply in updates if reply["ok"]]
    run = await wire.run(run_id)
    assert run is not None
    assert {name: run[name] for name in winner} == winner
    entries, runs, claims = await stored_rows(connection)
    assert (len(entries), len(runs), len(claims)) == (2, 1, 1)
