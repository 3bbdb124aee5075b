"""A result that is too large for a reply: the caller learns which request to send instead, and nobody else notices."""

import asyncio
import json

from sql.connection import Connection
from tests.wire import POLL_S, WAIT_S, Wire, run_created, run_finished

EMOJI = "\N{MONEY WITH WINGS}"
CLAIMS_PER_EVENT = 5_000
RUNS = 1_000


async def refusal(wire: Wire, operation: str, **body: object) -> str:
    """The message of the refusal."""
    error = await wire.error(operation, body)
    assert error["code"] == "RESULT_TOO_LARGE", error
    return str(error["message"])


async def test_a_run_with_50_000_long_claims(wire: Wire, connection: Connection) -> None:
    """They have 200 characters of four bytes each, 40 MB in all. On such a reply RabbitMQ 4 would close the channel."""
    created = run_created()
    run_id = created["runId"]
    await wire.publish("run-created", created)
    for start in range(0, 50_000, CLAIMS_PER_EVENT):
        names = [f"{number:05}{EMOJI * 195}" for number in range(start, start + CLAIMS_PER_EVENT)]
        body = run_finished(runId=run_id, claimIds=names, occurredAt=created["occurredAt"])
        await wire.publish("run-finished", json.dumps(body, ensure_ascii=False).encode())
    async with asyncio.timeout(WAIT_S):
        while await connection.fetchval("SELECT claim_count FROM export_runs") != 50_000:
            await asyncio.sleep(POLL_S)
    for _ in range(3):
        run = await wire.result("get-export-run-by-id", runId=run_id)
        page = await wire.result("list-run-claims", runId=run_id, limit=10_000, cursor=run["claimsNextCursor"])
        assert run["claimIds"][-1] < page["claims"][0]["claimId"]
        assert page["nextCursor"] is not None
    checked = await wire.result("check-claims", orgId="org-1", claimIds=[f"00007{EMOJI * 195}", "c-1"])
    assert [claim["claimId"] for claim in checked["exported"]] == [f"00007{EMOJI * 195}"]


async def test_a_claim_of_1_000_runs_with_long_texts(wire: Wire, connection: Connection) -> None:
    """All of them are too large for a reply, fewer are not. Other requests at the same time are answered."""
    await connection.execute(
        "INSERT INTO export_runs (run_id, org_id, created_at, triggered_by, format, created_event_id, created_digest, "
        "status, finished_at, finished_event_id, finished_digest, error_code, error_detail, override_reason, "
        "override_approved_by) SELECT gen_random_uuid(), 'org-1', now(), 'alice', 'csv', gen_random_uuid(), '', "
        "'completed', now(), gen_random_uuid(), '', 'E', $1, $1, 'bob' FROM generate_series(1, $2::integer)",
        EMOJI * 2_000,
        RUNS,
    )
    await connection.execute(
        "INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome) "
        "SELECT 'c-1', org_id, run_id, 'exported' FROM export_runs"
    )
    requests = [asyncio.create_task(refusal(wire, "find-runs-by-claim-id", claimId="c-1")) for _ in range(4)]
    for _ in range(20):
        checked = await wire.result("check-claims", orgId="org-1", claimIds=["c-1", "c-2"])
        assert len(checked["exported"][0]["runs"]) == RUNS
    assert all("smaller limit" in message for message in await asyncio.gather(*requests))
    found = await wire.result("find-runs-by-claim-id", claimId="c-1", limit=500)
    assert (len(found["runs"]), found["truncated"]) == (500, True)
