"""Requests at their bounds: deadlines, pages, cursors, numbers of claims."""

import json

import pytest

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import encode
from tests.acceptance.bad_messages.requests import (
    VALID,
    assert_invalid,
    declare_reply_queue,
    send,
    stored_rows,
    until_refused,
)
from tests.wire import Json, Wire, run_finished


@pytest.mark.parametrize("expiration_s", [0, 0.001, 0.02], ids=["0", "1 ms", "20 ms"])
async def test_requests_that_expire(wire: Wire, connection: Connection, expiration_s: float) -> None:
    """They may get no reply. A reply must be a result or UNAVAILABLE, and a stored run must be complete."""
    replies = await declare_reply_queue(wire, "reply.x")
    for number in range(50):
        for operation in ("create-export-run", "check-claims", "get-export-history"):
            await send(
                wire,
                operation,
                {**VALID[operation], "orgId": f"org-{number}"},
                reply_to=replies.name,
                correlation_id="mine",
                expiration=expiration_s,
            )
    for operation in VALID:
        await until_refused(wire, operation)
    while reply := await replies.get(fail=False, no_ack=True):
        answer = json.loads(reply.body)
        assert answer["ok"] or answer["error"]["code"] == "UNAVAILABLE"
    logged, runs, claims = await stored_rows(connection)
    assert (len(logged), claims) == (len(runs), [])
    assert len({row[1] for row in runs}) == len(runs)


async def test_a_deadline_far_away(wire: Wire) -> None:
    reply = await wire.ask("check-claims", VALID["check-claims"], expiration=4_000_000)
    assert reply["ok"] is True


async def test_bounds_of_pages(wire: Wire) -> None:
    for number in range(3):
        await wire.result("create-export-run", **VALID["create-export-run"], targetSystem=f"s-{number}")
    for limit, length in ((1, 1), (200, 3)):
        page = await wire.result("get-export-history", orgId="org-1", limit=limit)
        assert (len(page["runs"]), page["total"], page["nextCursor"] is None) == (length, 3, length == 3)
    for offset, length in ((0, 3), (2, 1), (3, 0), (100_000, 0)):
        page = await wire.result("get-export-history", orgId="org-1", offset=offset)
        assert (len(page["runs"]), page["total"], page["nextCursor"]) == (length, 3, None)


async def test_cursors(wire: Wire) -> None:
    """A cursor is refused if it was changed, if it belongs to another organisation or to other filters, or if an
    offset comes with it. The size of the page may change.
    """
    for org_id in ("org-1", "org-2"):
        for _ in range(2):
            await wire.result("create-export-run", **{**VALID["create-export-run"], "orgId": org_id})
    page = await wire.result("get-export-history", orgId="org-1", limit=1)
    cursor = page["nextCursor"]
    rest = await wire.result("get-export-history", orgId="org-1", limit=1, cursor=cursor)
    assert rest["runs"] != page["runs"]
    assert rest == await wire.result("get-export-history", orgId="org-1", limit=2, cursor=cursor)

    changed = {
        # The last character may hold bits that mean nothing.
        **{
            f"character {at}": cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
            for at in range(len(cursor) - 1)
        },
        "cut": cursor[:-4],
        "twice": cursor * 2,
        "backwards": cursor[::-1],
        "in lower case": cursor.lower(),
        "not ASCII": "é" + cursor[1:],
        "NUL at the end": cursor + "\0",
        "zeros": "A" * len(cursor),
        "highest": "_" * len(cursor),
    }
    bodies = {
        name: (encode({"orgId": "org-1", "limit": 1, "cursor": value}), "cursor") for name, value in changed.items()
    }
    others: dict[str, Json] = {
        "status": {"status": "pending"},
        "target system": {"targetSystem": "erp"},
        "from": {"createdFrom": "2001-01-01T00:00:00Z"},
        "to": {"createdTo": "2999-01-01T00:00:00Z"},
        "deleted": {"includeDeleted": True},
    }
    for name, filters in others.items():
        bodies[f"of another {name}"] = encode({"orgId": "org-1", "limit": 1, "cursor": cursor, **filters}), "cursor"
    bodies["of another organisation"] = encode({"orgId": "org-2", "limit": 1, "cursor": cursor}), "cursor"
    for offset in (0, 1):
        body = encode({"orgId": "org-1", "limit": 1, "cursor": cursor, "offset": offset})
        bodies[f"before offset {offset}"] = body, "cursor"
        body = encode({"offset": offset, "cursor": cursor, "limit": 1, "orgId": "org-1"})
        bodies[f"after offset {offset}"] = body, "cursor"
    await assert_invalid(wire, "get-export-history", bodies)


async def test_bounds_of_claim_checks(wire: Wire) -> None:
    """A check may have 10,000 claims. The reply has their order, and each claim once."""
    finished = run_finished(claimIds=["c-7", "c-9999", "other"])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    claim_ids = [f"c-{number}" for number in reversed(range(10_000))]
    checked = await wire.result("check-claims", orgId="org-1", claimIds=claim_ids)
    assert [each["claimId"] for each in checked["exported"]] == ["c-9999", "c-7"]
    assert checked["unexported"] == [claim_id for claim_id in claim_ids if claim_id not in ("c-9999", "c-7")]
    checked = await wire.result("check-claims", orgId="org-1", claimIds=["x", "c-7", "x", "c-7"] * 2_500)
    assert [each["claimId"] for each in checked["exported"]] == ["c-7"]
    assert checked["unexported"] == ["x"]


async def test_odd_claims(wire: Wire, connection: Connection) -> None:
    """Claims that look different are different claims. SQL or JSON in a claim has no meaning."""
    odd = [
        "c",
        "C",
        "c ",
        " c",
        "é",
        "e\u0301",
        "x" * 200,
        "\N{GRINNING FACE}" * 200,
        "%",
        "_",
        "\\",
        "{}",
        "NULL",
    ]
    run = await wire.result("create-export-run", **VALID["create-export-run"])
    await wire.result("update-export-run-status", runId=run["runId"], status="completed", claimIds=odd * 2)
    checked = await wire.result("check-claims", orgId="org-1", claimIds=[*odd, "É", "null"])
    assert [each["claimId"] for each in checked["exported"]] == odd
    assert checked["unexported"] == ["É", "null"]
    for claim_id in odd:
        found = await wire.result("find-runs-by-claim-id", claimId=claim_id)
        assert [each["runId"] for each in found["runs"]] == [run["runId"]]
    other_spellings = ["c ", " c", "e\u0301"]
    claims = await connection.fetchval("SELECT array_agg(claim_id) FROM export_run_claims")
    assert sorted(claims) == sorted(set(odd) - set(other_spellings))
