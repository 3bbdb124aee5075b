"""Clients send requests and get replies."""

import asyncio
import json
from uuid import uuid4

import aio_pika
import pytest

from sql.connection import Connection
from tests.wire import WAIT_S, Json, Wire, next_message, run_finished

pytestmark = pytest.mark.usefixtures("worker")


def start(**fields: object) -> Json:
    return {"orgId": "org-1", "triggeredBy": "alice", "format": "csv", **fields}


async def test_a_run_by_request(wire: Wire, connection: Connection) -> None:
    run = await wire.result("create-export-run", **start(targetSystem="ledger", unknownField=1))
    assert (run["status"], run["targetSystem"], run["finishedAt"]) == ("pending", "ledger", None)
    updated = await wire.result(
        "update-export-run-status",
        runId=run["runId"],
        orgId="org-1",
        status="completed",
        claimIds=["c-1", "c-2"],
    )
    assert (updated["status"], updated["claimCount"], updated["hasConflict"]) == ("completed", 2, False)
    checked = await wire.check("org-1", "c-9", "c-2", "c-1", "c-9")
    assert checked == {
        "exported": [
            {
                "claimId": claim_id,
                "runs": [{"runId": run["runId"], "status": "completed", "finishedAt": updated["finishedAt"]}],
            }
            for claim_id in ("c-2", "c-1")
        ],
        "reserved": [],
        "unexported": ["c-9"],
    }
    logged = await connection.fetch(
        "SELECT event_type, origin, payload::json ->> 'unknownField' AS unknown_field "
        "FROM export_run_events ORDER BY received_at"
    )
    assert [tuple(row) for row in logged] == [
        ("run-created", "request", "1"),
        ("run-finished", "request", None),
    ]


async def test_checks_that_share_a_query_are_not_mixed_up(wire: Wire) -> None:
    """Two organisations have the same claim ids. Large and small requests are sent at the same time."""
    for org_id, claim_ids in (("org-1", ["c-1", "c-2"]), ("org-2", ["c-2", "c-3"])):
        finished = run_finished(orgId=org_id, claimIds=claim_ids)
        await wire.publish("run-finished", finished)
        await wire.until_run(finished["runId"], status="completed")
    requests = [
        (org_id, claim_ids)
        for org_id in ("org-1", "org-2", "org-3")
        for claim_ids in (["c-1"], ["c-3", "c-2"], ["c-2", "c-1"], [f"c-{number}" for number in range(3_000)])
    ] * 10
    answers = await asyncio.gather(
        *(wire.result("check-claims", orgId=org_id, claimIds=claim_ids) for org_id, claim_ids in requests)
    )
    exported = {"org-1": {"c-1", "c-2"}, "org-2": {"c-2", "c-3"}, "org-3": set()}
    for (org_id, claim_ids), answer in zip(requests, answers, strict=True):
        out = [claim_id for claim_id in claim_ids if claim_id in exported[org_id]]
        assert [claim["claimId"] for claim in answer["exported"]] == out
        assert answer["unexported"] == [claim_id for claim_id in claim_ids if claim_id not in out]


async def test_writes_are_safe_to_repeat(wire: Wire, connection: Connection) -> None:
    run_id = str(uuid4())
    for operation, body in (
        ("create-export-run", start(runId=run_id)),
        ("update-export-run-status", {"runId": run_id, "status": "failed", "claimIds": ["c-1"]}),
        ("delete-export-run", {"runId": run_id, "deletedBy": "bob", "reason": "a test"}),
    ):
        first = await wire.result(operation, **body)
        assert await wire.result(operation, **body) == first
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 3


async def test_a_deleted_run_is_hidden_and_its_claims_stay_exported(wire: Wire) -> None:
    finished = run_finished()
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    deleted = await wire.result(
        "delete-export-run", runId=finished["runId"], deletedBy="bob", reason="a mistake", orgId="org-1"
    )
    assert (deleted["deletedBy"], deleted["deletedAt"] is not None) == ("bob", True)
    assert (await wire.result("get-export-history", orgId="org-1"))["runs"] == []
    history = await wire.result("get-export-history", orgId="org-1", includeDeleted=True)
    assert [run["runId"] for run in history["runs"]] == [finished["runId"]]
    assert (await wire.result("check-claims", orgId="org-1", claimIds=["c-1"]))["unexported"] == []
    found = await wire.result("find-runs-by-claim-id", claimId="c-1")
    assert [(run["runId"], run["claimOutcome"]) for run in found["runs"]] == [(finished["runId"], "exported")]


async def test_one_organisation_learns_nothing_of_another(wire: Wire) -> None:
    finished = run_finished(orgId="org-1", claimIds=["c-1"])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    other: Json = {"runId": finished["runId"], "orgId": "org-2"}
    for operation, body in (
        ("get-export-run-by-id", other),
        ("update-export-run-status", {**other, "status": "completed", "claimIds": []}),
        ("delete-export-run", {**other, "deletedBy": "eve", "reason": "curious"}),
    ):
        assert (await wire.error(operation, body))["code"] == "RUN_NOT_FOUND"
    for run_id, claim_id in ((finished["runId"], "c-2"), (str(uuid4()), "c-3")):
        reserved = await wire.result("reserve-claims", runId=run_id, orgId="org-2", claimIds=[claim_id])
        assert reserved["granted"] == [claim_id]
    assert (await wire.result("find-runs-by-claim-id", claimId="c-1", orgId="org-2"))["runs"] == []
    assert await wire.check("org-2", "c-1") == {
        "exported": [],
        "reserved": [],
        "unexported": ["c-1"],
    }
    assert (await wire.result("get-export-history", orgId="org-2")) == {
        "runs": [],
        "nextCursor": None,
        "total": 0,
    }


async def test_pages_of_history(wire: Wire) -> None:
    """While new runs arrive, the pages by cursor have each older run once, the newest first."""
    before = [(await wire.result("create-export-run", **start()))["runId"] for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await wire.result("get-export-history", orgId="org-1", limit=3, cursor=cursor)
        seen += [run["runId"] for run in page["runs"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
        await wire.result("create-export-run", **start())
    assert seen == before[::-1]
    assert page["total"] == 9
    by_offset = await wire.result("get-export-history", orgId="org-1", limit=3, offset=2)
    assert [run["runId"] for run in by_offset["runs"]] == before[::-1][:3]


@pytest.mark.parametrize("queue_name", ["", "reply.panel"], ids=["server-named", "allowed prefix"])
async def test_ordinary_reply_queues(wire: Wire, queue_name: str) -> None:
    replies = await wire.channel.declare_queue(queue_name, exclusive=True)
    rpc = await wire.channel.get_exchange("export-runs.rpc")
    body = json.dumps({"orgId": "org-1", "claimIds": ["c-1"]}).encode()
    request = aio_pika.Message(body, reply_to=replies.name, correlation_id="mine")
    await rpc.publish(request, "check-claims")
    reply = await next_message(replies)
    assert reply.correlation_id == "mine"
    assert json.loads(reply.body)["result"]["unexported"] == ["c-1"]


async def test_many_clients_at_once_each_get_their_own_answer(wire: Wire) -> None:
    async def ask(number: int) -> None:
        checked = await wire.result("check-claims", orgId="org-1", claimIds=[f"c-{number}"])
        assert checked["unexported"] == [f"c-{number}"]

    await asyncio.gather(*(ask(number) for number in range(200)))


async def test_a_reply_queue_that_aio_pika_has_named(amqp_url: str) -> None:
    """A robust connection chooses the names of its anonymous queues."""
    connection = await aio_pika.connect_robust(amqp_url, timeout=WAIT_S)
    async with connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        assert replies.name.startswith("amq_")
        body = json.dumps({"orgId": "org-1", "claimIds": ["c-1"]}).encode()
        message = aio_pika.Message(body, reply_to=replies.name, correlation_id="mine")
        await (await channel.get_exchange("export-runs.rpc", ensure=False)).publish(message, "check-claims")
        reply = await next_message(replies)
    assert reply.correlation_id == "mine"
    assert json.loads(reply.body)["result"]["unexported"] == ["c-1"]
