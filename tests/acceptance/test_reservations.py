"""Exporters reserve claims, and a claim that is exported twice is reported."""

import asyncio
import json
from datetime import datetime
from uuid import uuid4

import pytest

from sql.connection import Connection
from tests.wire import Json, Wire, run_created, run_finished

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
    assert await wire.check("org-1", "c-2", "c-1") == {
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
    with_override = await wire.result("reserve-claims", **of(two, "c-1", "c-2", override=OVERRIDE))
    assert with_override["granted"] == ["c-1", "c-2"]
    await wire.publish("run-created", run_created(runId=two))
    [override] = (await wire.until_run(two))["claimOverrides"]
    del override["grantedAt"]
    assert override == {"claimId": "c-1", "earlierRunId": one, **OVERRIDE}


async def test_only_one_of_many_reservations_at_once_is_granted(wire: Wire) -> None:
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
    assert [(run["runId"], run["status"]) for run in found["runs"]] == [(taker, "completed"), (slow, "completed")]
    assert found == {
        "orgId": "org-1",
        "claimId": "c-1",
        "runs": found["runs"],
        "runCount": 2,
        "repeatedInRuns": [],
        "detectedAt": found["detectedAt"],
        "lastJoinedAt": found["detectedAt"],
        "endedAt": None,
        "resolvedAt": None,
        "resolvedBy": None,
        "note": None,
    }
    message = await wire.take_from("export-runs.alerts")
    assert (message.type, message.routing_key) == ("double-export-detected", "double-export-detected")
    assert message.content_type == "application/json"
    assert message.delivery_mode == 2
    alert = json.loads(message.body)
    assert alert == {
        "eventId": alert["eventId"],
        "schemaVersion": 2,
        "occurredAt": found["detectedAt"],
        "orgId": "org-1",
        "runId": slow,
        "claimCount": 1,
        "claimIds": ["c-1"],
        "earlierRunIds": [taker],
        "foundBy": "another-run",
    }
    resolution = {"orgId": "org-1", "claimId": "c-1", "resolvedBy": "bob", "note": "money came back", "runCount": 2}
    resolved = await wire.result("resolve-double-export", **resolution)
    assert await wire.result("resolve-double-export", **resolution) == resolved
    for changed, field_name in (({"resolvedBy": "eve"}, "claimId"), ({"runCount": 3}, "runCount")):
        error = await wire.error("resolve-double-export", {**resolution, **changed})
        assert (error["code"], [detail["field"] for detail in error["details"]]) == ("CONFLICT", [field_name])
    for unknown in ({"claimId": "c-2"}, {"orgId": "org-2"}):
        assert (await wire.error("resolve-double-export", {**resolution, **unknown}))[
            "code"
        ] == "DOUBLE_EXPORT_NOT_FOUND"
    assert (await wire.result("list-double-exports", orgId="org-1"))["doubleExports"] == [resolved]
    assert (await wire.result("list-double-exports", orgId="org-1", resolved=False))["doubleExports"] == []


async def test_a_loop_that_exports_many_claims_again_is_one_alarm_each_time(wire: Wire) -> None:
    """The record of a claim that somebody has resolved is open again then, and it can be resolved again."""
    claim_ids = sorted(f"c-{number}" for number in range(250))
    first = run_finished(claimIds=claim_ids)
    await wire.publish("run-finished", first)
    await wire.until_run(first["runId"], status="completed")
    resolution = {"orgId": "org-1", "claimId": "c-0", "resolvedBy": "bob"}
    for count in (2, 3, 4):
        again = run_finished(claimIds=claim_ids)
        await wire.publish("run-finished", again)
        alert = json.loads((await wire.take_from("export-runs.alerts")).body)
        assert (alert["runId"], alert["claimCount"]) == (again["runId"], 250)
        assert alert["claimIds"] == claim_ids[:100]
        assert first["runId"] in alert["earlierRunIds"]
        assert len(alert["earlierRunIds"]) == count - 1
        [record] = (await wire.result("list-double-exports", orgId="org-1", limit=1))["doubleExports"]
        assert (record["claimId"], record["runCount"], record["resolvedAt"]) == ("c-0", count, None)
        await wire.result("resolve-double-export", **resolution, note=f"the loop was stopped, {count}")
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
    for other in ({"olderThanSeconds": 3_601}, {"olderThanSeconds": 3_600, "orgId": "org-1"}):
        refused = await wire.error("list-stale-runs", {**other, "cursor": page["nextCursor"]})
        assert (refused["code"], refused["details"][0]["field"]) == ("INVALID_REQUEST", "cursor")


@pytest.mark.parametrize(
    ("operation", "body", "field_name"),
    [
        ("reserve-claims", of(str(uuid4()), "c-1", ttlSeconds=86_401), "ttlSeconds"),
        ("reserve-claims", of(str(uuid4())), "claimIds"),
        ("release-claims", of(str(uuid4())), "claimIds"),
        ("list-double-exports", {"orgId": "org-1", "cursor": "x"}, "cursor"),
        ("resolve-double-export", {"orgId": "org-1", "resolvedBy": "bob", "note": "n"}, "claimId"),
        ("list-stale-runs", {"olderThanSeconds": 0}, "olderThanSeconds"),
    ],
)
async def test_an_invalid_request_names_the_wrong_field(
    wire: Wire, operation: str, body: Json, field_name: str
) -> None:
    error = await wire.error(operation, body)
    assert (error["code"], [detail["field"] for detail in error["details"]]) == ("INVALID_REQUEST", [field_name])
