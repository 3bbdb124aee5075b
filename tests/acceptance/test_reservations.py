"""Exporters reserve over the wire; what goes out twice is reported."""

import asyncio
import json
from datetime import datetime
from uuid import uuid4

import pytest

from handlers.connection import Connection
from tests.wire import WAIT_S, Json, Wire, run_created, run_finished

pytestmark = pytest.mark.usefixtures("worker")

OVERRIDE = {"reason": "the bank lost it", "approvedBy": "carol"}


def of(run_id: str, *claim_ids: str, **fields: object) -> Json:
    return {"orgId": "org-1", "runId": run_id, "claimIds": claim_ids, **fields}


async def test_a_reservation_from_start_to_end(wire: Wire) -> None:
    one, two = str(uuid4()), str(uuid4())
    first = await wire.result("reserve-claims", **of(one, "c-1", "c-2"))
    assert set(first) == {"granted", "conflicts", "expiresAt", "fencingToken"}
    assert (first["granted"], first["conflicts"], type(first["fencingToken"])) == (["c-1", "c-2"], [], int)
    assert await wire.result("reserve-claims", **of(two, "c-3", "c-2")) == {
        "granted": [],
        "conflicts": [{"claimId": "c-2", "reason": "reserved", "runId": one, "expiresAt": first["expiresAt"]}],
        "expiresAt": None,
        "fencingToken": None,
    }
    renewed = await wire.result("reserve-claims", **of(one, "c-1", "c-2", ttlSeconds=86_400))
    assert renewed["fencingToken"] == first["fencingToken"]
    assert datetime.fromisoformat(renewed["expiresAt"]) > datetime.fromisoformat(first["expiresAt"])
    assert await wire.result("release-claims", **of(one, "c-2")) == {"releasedCount": 1}
    assert await wire.result("check-claims", orgId="org-1", claimIds=["c-2", "c-1"]) == {
        "exported": [],
        "reserved": [{"claimId": "c-1", "runId": one, "expiresAt": renewed["expiresAt"]}],
        "unexported": ["c-2"],
    }
    await wire.publish("run-finished", run_finished(runId=one, claimIds=["c-1"]))
    await wire.until_run(one, status="completed")
    refused = await wire.result("reserve-claims", **of(two, "c-1", "c-2", mode="available"))
    assert (refused["granted"], refused["fencingToken"] > first["fencingToken"]) == (["c-2"], True)
    assert refused["conflicts"] == [{"claimId": "c-1", "reason": "exported", "runId": one, "expiresAt": None}]
    assert (await wire.error("reserve-claims", of(one, "c-9")))["code"] == "CONFLICT"
    again = await wire.result("reserve-claims", **of(two, "c-1", "c-2", override=OVERRIDE))
    assert again["granted"] == ["c-1", "c-2"]
    await wire.publish("run-created", run_created(runId=two))
    [override] = (await wire.until_run(two))["claimOverrides"]
    del override["grantedAt"]
    assert override == {"claimId": "c-1", "earlierRunId": one, **OVERRIDE}


async def test_of_many_that_ask_at_once_one_is_granted(wire: Wire) -> None:
    run_ids = [str(uuid4()) for _ in range(50)]
    answers = await asyncio.gather(*(wire.result("reserve-claims", **of(run_id, "c-1", "c-2")) for run_id in run_ids))
    [granted] = [run_id for run_id, answer in zip(run_ids, answers, strict=True) if answer["granted"]]
    others = [answer["conflicts"] for answer in answers if not answer["granted"]]
    assert len(others) == 49
    assert {(each["reason"], each["runId"]) for conflicts in others for each in conflicts} == {("reserved", granted)}


async def test_an_expired_lease_is_taken_and_both_runs_complete(wire: Wire, connection: Connection) -> None:
    """The alert names both; somebody resolves it."""
    slow, taker = str(uuid4()), str(uuid4())
    await wire.result("reserve-claims", **of(slow, "c-1"))
    await connection.execute("UPDATE claim_leases SET expires_at = expires_at - interval '1 day'")
    [conflict] = (await wire.result("reserve-claims", **of(taker, "c-1")))["conflicts"]
    assert (conflict["reason"], conflict["runId"]) == ("expired", slow)
    assert (await wire.result("reserve-claims", **of(taker, "c-1", takeExpired=True)))["granted"] == ["c-1"]
    for run_id in (taker, slow):
        await wire.publish("run-finished", run_finished(runId=run_id, claimIds=["c-1"]))
        await wire.until_run(run_id, status="completed")
    [found] = (await wire.result("list-double-exports", orgId="org-1", resolved=False))["doubleExports"]
    pair = {"orgId": "org-1", "claimId": "c-1", "firstRunId": taker, "secondRunId": slow, "foundBy": "another-run"}
    assert found == {
        **pair,
        "id": found["id"],
        "detectedAt": found["detectedAt"],
        "resolvedAt": None,
        "resolvedBy": None,
        "note": None,
    }
    message = await wire.take_from("export-runs.alerts")
    assert (message.type, message.routing_key) == ("double-export-detected", "double-export-detected")
    assert message.content_type == "application/json"
    assert message.delivery_mode == 2
    alert = json.loads(message.body)
    about = {"schemaVersion": 1, "occurredAt": found["detectedAt"], "id": found["id"]}
    assert alert == {**pair, **about, "eventId": alert["eventId"]}
    resolution = {"id": found["id"], "resolvedBy": "bob", "note": "money came back"}
    resolved = await wire.result("resolve-double-export", **resolution)
    assert await wire.result("resolve-double-export", **resolution) == resolved
    assert (await wire.error("resolve-double-export", {**resolution, "resolvedBy": "eve"}))["code"] == "CONFLICT"
    unknown = await wire.error("resolve-double-export", {**resolution, "id": found["id"] + 1})
    assert unknown["code"] == "DOUBLE_EXPORT_NOT_FOUND"
    assert (await wire.result("list-double-exports", orgId="org-1"))["doubleExports"] == [resolved]
    assert (await wire.result("list-double-exports", orgId="org-1", resolved=False))["doubleExports"] == []


async def test_more_alerts_than_fit_one_batch_come_in_order_each_once(wire: Wire, connection: Connection) -> None:
    claim_ids = [f"c-{number}" for number in range(250)]
    for _ in range(2):
        await wire.publish("run-finished", run_finished(claimIds=claim_ids))
    seen = [json.loads((await wire.take_from("export-runs.alerts")).body) for _ in claim_ids]
    ids = [alert["id"] for alert in seen]
    assert ids == sorted(set(ids))
    assert {alert["claimId"] for alert in seen} == set(claim_ids)
    async with asyncio.timeout(WAIT_S):
        while await connection.fetchval("SELECT count(*) FROM double_exports WHERE published_at IS NULL"):
            await asyncio.sleep(0.02)
    assert await wire.count_in("export-runs.alerts") == 0


async def test_stale_runs(wire: Wire) -> None:
    long_ago = [run_created(occurredAt=f"2026-01-0{day}T00:00:00Z") for day in (2, 1, 3)]
    for created in [*long_ago, run_created()]:
        await wire.publish("run-created", created)
        await wire.until_run(created["runId"])
    page = await wire.result("list-stale-runs", olderThanSeconds=3_600, limit=2)
    assert [run["createdAt"][:10] for run in page["runs"]] == ["2026-01-01", "2026-01-02"]
    rest = await wire.result("list-stale-runs", olderThanSeconds=3_600, limit=2, cursor=page["nextCursor"])
    assert ([run["runId"] for run in rest["runs"]], rest["nextCursor"]) == ([long_ago[2]["runId"]], None)


@pytest.mark.parametrize(
    ("operation", "body", "field_name"),
    [
        ("reserve-claims", of(str(uuid4()), "c-1", ttlSeconds=86_401), "ttlSeconds"),
        ("reserve-claims", of(str(uuid4())), "claimIds"),
        ("release-claims", of(str(uuid4())), "claimIds"),
        ("list-double-exports", {"orgId": "org-1", "cursor": "x"}, "cursor"),
        ("resolve-double-export", {"id": 0, "resolvedBy": "bob", "note": "n"}, "id"),
        ("list-stale-runs", {"olderThanSeconds": 0}, "olderThanSeconds"),
    ],
)
async def test_what_is_not_a_request(wire: Wire, operation: str, body: Json, field_name: str) -> None:
    error = await wire.error(operation, body)
    assert (error["code"], [detail["field"] for detail in error["details"]]) == ("INVALID_REQUEST", [field_name])
