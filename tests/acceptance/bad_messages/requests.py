"""What tests of bad requests share: a valid request for each operation, and ways to send others and read refusals."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import encode
from tests.wire import POLL_S, WAIT_S, Json, Wire

RUN_ID = str(uuid4())

VALID: dict[str, Json] = {
    "create-export-run": {"orgId": "org-1", "triggeredBy": "alice", "format": "csv"},
    "update-export-run-status": {"runId": RUN_ID, "status": "completed", "claimIds": ["c-1"]},
    "get-export-history": {"orgId": "org-1"},
    "get-export-run-by-id": {"runId": RUN_ID},
    "list-run-claims": {"runId": RUN_ID},
    "find-runs-by-claim-id": {"claimId": "c-1"},
    "check-claims": {"orgId": "org-1", "claimIds": ["c-1"]},
    "delete-export-run": {"runId": RUN_ID, "deletedBy": "bob", "reason": "a test"},
    "reserve-claims": {"orgId": "org-1", "runId": RUN_ID, "claimIds": ["c-1"]},
    "reverse-export": {
        "orgId": "org-1",
        "runId": RUN_ID,
        "reason": "a test",
        "reversedBy": "bob",
        "approvedBy": "carol",
    },
    "release-claims": {"orgId": "org-1", "runId": RUN_ID},
    "list-double-exports": {"orgId": "org-1"},
    "resolve-double-export": {"orgId": "org-1", "claimId": "c-1", "resolvedBy": "bob", "note": "a test"},
    "list-stale-runs": {"olderThanSeconds": 60},
    "check-period": {"orgId": "org-1", "periodStart": "2026-01-01", "periodEnd": "2026-01-31"},
    "get-last-export": {"orgId": "org-1"},
    "explain-claim": {"orgId": "org-1", "claimId": "c-1"},
}
every_operation = pytest.mark.parametrize("operation", VALID)


async def stored_rows(connection: Connection) -> list[list[tuple[Any, ...]]]:
    """Every row of the log, the runs and the claims."""
    queries = (
        "SELECT * FROM export_run_events ORDER BY event_id",
        "SELECT * FROM export_runs ORDER BY run_id",
        "SELECT * FROM export_run_claims ORDER BY claim_id, org_id, run_id",
    )
    return [[tuple(row) for row in await connection.fetch(query)] for query in queries]


async def refusal(wire: Wire, operation: str, body: bytes) -> tuple[str, list[str]]:
    """The code of a refusal, and the fields it names."""
    error = await wire.error(operation, body)
    assert error["message"]
    assert all(detail["message"] for detail in error["details"])
    return error["code"], [detail["field"] for detail in error["details"]]


async def assert_invalid(wire: Wire, operation: str, bodies: dict[str, tuple[bytes, str]]) -> None:
    """Every body must be refused, and the refusal must name its field. An empty name stands for any field."""

    async def code_and_fields(body: bytes) -> tuple[str, list[str]] | str:
        try:
            return await refusal(wire, operation, body)
        except (AssertionError, TimeoutError) as failure:
            return repr(failure)[:500]

    refusals = await asyncio.gather(*(code_and_fields(body) for body, _ in bodies.values()))
    wrong = {
        name: answer
        for (name, (_, field)), answer in zip(bodies.items(), refusals, strict=True)
        if answer != ("INVALID_REQUEST", [field]) and (field or answer[0] != "INVALID_REQUEST")
    }
    assert wrong == {}


async def declare_reply_queue(wire: Wire, name: str = "") -> AbstractQueue:
    """Declare an exclusive queue. RabbitMQ names it if no name is given."""
    return await wire.channel.declare_queue(name, exclusive=True)


async def send(wire: Wire, operation: str, body: Json | bytes, **properties: Any) -> None:
    """Publish a request. Does not wait for the reply."""
    exchange = await wire.channel.get_exchange("export-runs.rpc", ensure=False)
    message = aio_pika.Message(body if isinstance(body, bytes) else encode(body), **properties)
    await exchange.publish(message, operation)


async def until_answered(wire: Wire, operation: str) -> None:
    """Have so many requests answered that the worker has surely seen all earlier ones."""
    for _ in range(20):
        await wire.ask(operation, VALID[operation])


SNAKE = {
    "orgId": "org_id",
    "triggeredBy": "triggered_by",
    "runId": "run_id",
    "claimIds": "claim_ids",
    "claimId": "claim_id",
    "deletedBy": "deleted_by",
}


def is_answered(reply: Json) -> bool:
    """Whether a request is valid. The run or double export that it names need not exist, nor the run have exported."""
    return reply["ok"] or reply["error"]["code"] in ("RUN_NOT_FOUND", "DOUBLE_EXPORT_NOT_FOUND", "CONFLICT")


async def next_reply(queue: AbstractQueue) -> tuple[str | None, Json]:
    """The next reply in a queue: its correlation id, and its body."""
    async with asyncio.timeout(WAIT_S):
        while (reply := await queue.get(fail=False, no_ack=True)) is None:
            await asyncio.sleep(POLL_S)
    return reply.correlation_id, json.loads(reply.body)


async def until_refused(wire: Wire, operation: str) -> None:
    """The same with requests that are refused, so that nothing is written."""
    for _ in range(20):
        assert (await wire.error(operation, b"not JSON"))["code"] == "INVALID_REQUEST"
