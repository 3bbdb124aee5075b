"""Requests that no client should send: each is refused with its reason, and harms nothing else."""

import asyncio
import json
import re
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import DeliveryError

from handlers.connection import Connection
from tests.wire import POLL_S, WAIT_S, Json, Wire, run_created, run_finished

pytestmark = pytest.mark.usefixtures("unharmed_worker")


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database for this whole file, empty at the start of each test."""
    return emptied_url


BODY_BYTES_MAX = 4 * 1024 * 1024
RUN_ID = str(uuid4())

VALID: dict[str, Json] = {
    "create-export-run": {"orgId": "org-1", "triggeredBy": "alice", "format": "csv"},
    "update-export-run-status": {"runId": RUN_ID, "status": "completed", "claimIds": ["c-1"]},
    "get-export-history": {"orgId": "org-1"},
    "get-export-run-by-id": {"runId": RUN_ID},
    "find-runs-by-claim-id": {"claimId": "c-1"},
    "check-claims": {"orgId": "org-1", "claimIds": ["c-1"]},
    "delete-export-run": {"runId": RUN_ID, "deletedBy": "bob", "reason": "a test"},
    "reserve-claims": {"orgId": "org-1", "runId": RUN_ID, "claimIds": ["c-1"]},
    "release-claims": {"orgId": "org-1", "runId": RUN_ID},
    "list-double-exports": {"orgId": "org-1"},
    "resolve-double-export": {"id": 1, "resolvedBy": "bob", "note": "a test"},
    "list-stale-runs": {"olderThanSeconds": 60},
}
every_operation = pytest.mark.parametrize("operation", VALID)

OUR_QUEUES = (
    *(f"export-runs.{name}" for name in ("run-created", "run-finished")),
    *(f"export-runs.{name}.dead" for name in ("run-created", "run-finished")),
    "export-runs.unroutable",
    "export-runs.alerts",
    *(f"export-runs.rpc.{operation}" for operation in VALID),
)

# A string that starts with @ stands for a JSON token that Python cannot write.
RAW_TOKEN = re.compile(r'"@([^"]+)"')
HUGE_FLOAT = "@1e200000"
DEEP = "@" + "[" * 100 + "]" * 100


def encode(request: Json) -> bytes:
    """A body: fields that are `...` are left out, tokens that start with @ are written as they are."""
    present = {name: value for name, value in request.items() if value is not ...}
    return RAW_TOKEN.sub(r"\1", json.dumps(present)).encode()


async def stored(connection: Connection) -> list[list[tuple[Any, ...]]]:
    """Everything that is stored."""
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
    """Every body is refused for its one field; an empty name stands for whatever is named."""

    async def refused(body: bytes) -> tuple[str, list[str]] | str:
        try:
            return await refusal(wire, operation, body)
        except (AssertionError, TimeoutError) as failure:
            return repr(failure)[:500]

    refusals = await asyncio.gather(*(refused(body) for body, _ in bodies.values()))
    wrong = {
        name: answer
        for (name, (_, field)), answer in zip(bodies.items(), refusals, strict=True)
        if answer != ("INVALID_REQUEST", [field]) and (field or answer[0] != "INVALID_REQUEST")
    }
    assert wrong == {}


async def listen(wire: Wire, name: str = "") -> AbstractQueue:
    """An exclusive queue, named by the server if not by us."""
    return await wire.channel.declare_queue(name, exclusive=True)


async def send(wire: Wire, operation: str, body: Json | bytes, **properties: Any) -> None:
    """Publish a request and wait for no answer."""
    exchange = await wire.channel.get_exchange("export-runs.rpc", ensure=False)
    message = aio_pika.Message(body if isinstance(body, bytes) else encode(body), **properties)
    await exchange.publish(message, operation)


async def settled(wire: Wire, operation: str) -> None:
    """Wait until the worker has long been past what was asked before."""
    for _ in range(20):
        await wire.ask(operation, VALID[operation])


# --- bodies ----------------------------------------------------------------------------------------------


@every_operation
async def test_no_request_at_all(wire: Wire, connection: Connection, operation: str) -> None:
    valid = encode(VALID[operation])
    padding = BODY_BYTES_MAX + 1 - len(valid) - len(b',"padding":""')
    bodies = {
        "empty": b"",
        "white space": b" \n\t",
        "not JSON": operation.encode(),
        "cut off": valid[:-1],
        "more after the end": valid + b"}",
        "not UTF-8": valid[:-1] + b',"a":"\xe9"}',
        "UTF-16": valid.decode().encode("utf-16"),
        "array": b"[" + valid + b"]",
        "string": json.dumps(valid.decode()).encode(),
        "number": b"1",
        "null": b"null",
        "NaN": b"NaN",
        "100 arrays deep": b"[" * 100 + b"]" * 100,
        "10,000 arrays deep": b"[" * 10_000 + b"]" * 10_000,
        "unknown field 10,000 deep": valid[:-1] + b',"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        "unknown field NaN": valid[:-1] + b',"a":NaN}',
        "unknown field Infinity": valid[:-1] + b',"a":-Infinity}',
        "unknown field lone surrogate": valid[:-1] + b',"a":"\\ud800"}',
        "one byte more than 4 MiB": valid[:-1] + b',"padding":"' + b"x" * padding + b'"}',
    }
    await assert_invalid(wire, operation, {name: (body, "body") for name, body in bodies.items()})
    assert await stored(connection) == [[], [], []]


NOT_NAMES: Json = {
    "empty": "",
    "blank": "  ",
    "NUL": "a\0b",
    "line end": "a\n",
    "escape": "\x1b[1m",
    "next line": "a\x85",
    "201 characters": "x" * 201,
    "number": 5,
    "true": True,
    "array": ["a"],
}
NOT_IDS: Json = {"empty": "", "word": "run-1", "NUL": f"{uuid4()}\0", "number": 5, "array": [str(uuid4())]}
NOT_TIMES: Json = {
    "naive": "2026-01-01T00:00:00",
    "date": "2026-01-01",
    "number": 1_767_225_600,
    "year 10,000": "10000-01-01T00:00:00Z",
    "year 0 in UTC": "0001-01-01T00:00:00+01:00",
    "year 10,000 in UTC": "9999-12-31T23:59:59-01:00",
    "infinity": "infinity",
}
NOT_STATUSES: Json = {
    "unknown": "done",
    "upper case": "COMPLETED",
    "number": 3,
    "NUL": "failed\0",
    "empty": "",
}
NOT_CLAIM_LISTS: Json = {"string": "c-1", "object": {"0": "c-1"}, "number": 5}
NOT_LIMITS: Json = {
    "-1": -1,
    "string": "1",
    "fraction": 1.5,
    "10**30": 10**30,
    "1e200000": HUGE_FLOAT,
    "true": True,
}

WRONG: dict[str, dict[str, Json]] = {
    "create-export-run": {
        "orgId": NOT_NAMES,
        "triggeredBy": NOT_NAMES,
        "format": NOT_NAMES,
        "runId": NOT_IDS,
        "retryOfRunId": NOT_IDS,
        "targetSystem": {"NUL": "\0", "number": 5},
        "periodStart": {"time": "2026-01-01T00:00:00Z", "number": 5, "year 10,000": "10000-01-01"},
        "periodEnd": {"month 13": "2026-13-01", "empty": ""},
        "override": {"string": "because"},
    },
    "update-export-run-status": {
        "runId": NOT_IDS,
        "orgId": NOT_NAMES,
        "status": {**NOT_STATUSES, "pending": "pending"},
        "claimIds": {**NOT_CLAIM_LISTS, "50,001": ["c"] * 50_001},
        "error": {"string": "it broke"},
        "externalAckId": {"NUL": "\0"},
    },
    "get-export-history": {
        "orgId": NOT_NAMES,
        "limit": {**NOT_LIMITS, "0": 0, "201": 201},
        "offset": {**NOT_LIMITS, "past the bound": 100_001},
        "cursor": {
            "empty": "",
            "number": 5,
            "word": "next",
            "garbage": "!" * 43,
            "NUL": "\0",
            "long": "A" * 10_000,
        },
        "status": NOT_STATUSES,
        "targetSystem": {"NUL": "\0", "number": 5},
        "createdFrom": NOT_TIMES,
        "createdTo": NOT_TIMES,
        "includeDeleted": {"string": "true", "number": 1},
    },
    "get-export-run-by-id": {"runId": NOT_IDS, "orgId": NOT_NAMES},
    "find-runs-by-claim-id": {"claimId": NOT_NAMES, "orgId": NOT_NAMES},
    "check-claims": {
        "orgId": NOT_NAMES,
        "claimIds": {**NOT_CLAIM_LISTS, "none": [], "10,001": [f"c-{number}" for number in range(10_001)]},
    },
    "delete-export-run": {
        "runId": NOT_IDS,
        "orgId": NOT_NAMES,
        "deletedBy": NOT_NAMES,
        "reason": {"empty": "", "blank": " \n", "NUL": "a\0b", "number": 5},
    },
    "reserve-claims": {
        "orgId": NOT_NAMES,
        "runId": NOT_IDS,
        "claimIds": {**NOT_CLAIM_LISTS, "none": [], "10,001": [f"c-{number}" for number in range(10_001)]},
        "ttlSeconds": {**NOT_LIMITS, "0": 0, "86,401": 86_401},
        "mode": {"unknown": "some", "upper case": "AVAILABLE", "number": 1},
        "takeExpired": {"string": "true", "number": 1},
        "override": {"string": "because"},
    },
    "release-claims": {
        "orgId": NOT_NAMES,
        "runId": NOT_IDS,
        "claimIds": {**NOT_CLAIM_LISTS, "none": [], "10,001": [f"c-{number}" for number in range(10_001)]},
    },
    "list-double-exports": {
        "orgId": NOT_NAMES,
        "limit": {**NOT_LIMITS, "0": 0, "201": 201},
        "cursor": {"empty": "", "number": 5, "word": "next", "long": "A" * 10_000},
        "resolved": {"string": "true", "number": 1},
    },
    "resolve-double-export": {
        "id": {**NOT_LIMITS, "0": 0, "2**63": 2**63},
        "resolvedBy": NOT_NAMES,
        "note": {"empty": "", "blank": " \n", "NUL": "a\0b", "number": 5},
        "orgId": NOT_NAMES,
    },
    "list-stale-runs": {
        "orgId": NOT_NAMES,
        "olderThanSeconds": {**NOT_LIMITS, "0": 0},
        "limit": {**NOT_LIMITS, "0": 0, "201": 201},
        "cursor": {"empty": "", "number": 5, "word": "next", "long": "A" * 10_000},
    },
}

SNAKE = {
    "orgId": "org_id",
    "triggeredBy": "triggered_by",
    "runId": "run_id",
    "claimIds": "claim_ids",
    "claimId": "claim_id",
    "deletedBy": "deleted_by",
}


@every_operation
async def test_wrong_fields(wire: Wire, connection: Connection, operation: str) -> None:
    """Each is named, and nothing is stored."""
    valid = VALID[operation]
    cases: dict[str, tuple[bytes, str]] = {
        f"{field} {what}": (encode({**valid, field: value}), field)
        for field, values in WRONG[operation].items()
        for what, value in values.items()
    }
    for field, value in valid.items():
        cases[f"no {field}"] = encode({**valid, field: ...}), field
        cases[f"null {field}"] = encode({**valid, field: None}), field
        if field in SNAKE:
            cases[f"snake case {field}"] = encode({**valid, field: ..., SNAKE[field]: value}), field
    if "claimIds" in valid:
        for what, value in NOT_NAMES.items():
            cases[f"claimIds.1 {what}"] = encode({**valid, "claimIds": ["c-1", value]}), "claimIds.1"
    await assert_invalid(wire, operation, cases)
    assert await stored(connection) == [[], [], []]


async def test_wrong_fields_inside_others(wire: Wire, connection: Connection) -> None:
    override = {"reason": "why", "approvedBy": "bob"}
    create: dict[str, Json] = {
        "override.reason": {"override": {**override, "reason": "a\0"}},
        "override.approvedBy": {"override": {"reason": "why", "approved_by": "bob"}},
        "periodEnd": {"periodStart": "2026-02-01", "periodEnd": "2026-01-31"},
    }
    artifact = {"key": "1.csv", "sha256": "ab", "sizeBytes": 1}
    update: dict[str, Json] = {
        "skippedClaims.0.claimId": {"skippedClaims": [{"claim_id": "c", "reason": "why"}]},
        "skippedClaims.0.reason": {"skippedClaims": [{"claimId": "c", "reason": "\0"}]},
        "error.detail": {"error": {"code": "E", "detail": "\0"}},
        "artifact.sizeBytes": {"artifact": {**artifact, "sizeBytes": float("nan")}},
        "artifact.key": {"artifact": {**artifact, "key": "\0"}},
    }
    groups: dict[str, dict[str, Json]] = {"create-export-run": create, "update-export-run-status": update}
    for operation, cases in groups.items():
        valid = VALID[operation]
        bodies = {field: (encode({**valid, **fields}), field) for field, fields in cases.items()}
        await assert_invalid(wire, operation, bodies)
    assert await stored(connection) == [[], [], []]


async def test_many_wrong_fields_are_named_at_once(wire: Wire) -> None:
    _, fields = await refusal(wire, "create-export-run", b'{"orgId": "", "format": 5}')
    assert sorted(fields) == ["format", "orgId", "triggeredBy"]
    code, fields = await refusal(wire, "check-claims", encode({"orgId": "o", "claimIds": list(range(10_000))}))
    assert (code, fields[0]) == ("INVALID_REQUEST", "claimIds.0")


@every_operation
async def test_unknown_fields_are_ignored(wire: Wire, operation: str) -> None:
    """Snake case names, the fields of AMQP and 4 MiB of padding among them."""
    run = await wire.result("create-export-run", **VALID["create-export-run"], runId=str(uuid4()))
    request = {
        **VALID[operation],
        **({"runId": run["runId"]} if "runId" in VALID[operation] else {}),
        "correlation_id": 5,
        "reply_to": None,
        "unknownField": "a\0b",
        "number": HUGE_FLOAT,
        "deep": DEEP,
        "snake_case": "",
    } | dict.fromkeys((*SNAKE.values(), "target_system", "created_from", "include_deleted"), False)
    short = encode({**request, "padding": ""})
    body = encode({**request, "padding": "x" * (BODY_BYTES_MAX - len(short))})
    assert len(body) == BODY_BYTES_MAX
    reply = await wire.ask(operation, body)
    assert is_answered(reply), reply
    if operation == "create-export-run":
        assert reply["result"]["runId"] != run["runId"]


def is_answered(reply: Json) -> bool:
    """Whether a request was understood. What it asks for need not be there."""
    return reply["ok"] or reply["error"]["code"] in ("RUN_NOT_FOUND", "DOUBLE_EXPORT_NOT_FOUND")


# --- where replies go ------------------------------------------------------------------------------------


async def answer_in(queue: AbstractQueue) -> tuple[str | None, Json]:
    """The next reply in a queue: its correlation id, and its body."""
    async with asyncio.timeout(WAIT_S):
        while (reply := await queue.get(fail=False, no_ack=True)) is None:
            await asyncio.sleep(POLL_S)
    return reply.correlation_id, json.loads(reply.body)


@pytest.mark.parametrize("name", ["", "reply.x"], ids=["server-named", "allowed prefix"])
async def test_every_operation_answers_into_ordinary_queues(wire: Wire, name: str) -> None:
    replies = await listen(wire, name)
    assert name or replies.name.startswith("amq.gen-")
    for operation, body in VALID.items():
        await send(wire, operation, body, reply_to=replies.name, correlation_id=operation)
        correlation_id, reply = await answer_in(replies)
        assert correlation_id == operation
        assert is_answered(reply), reply


@every_operation
async def test_no_correlation_id(wire: Wire, connection: Connection, operation: str) -> None:
    replies = await listen(wire, "reply.x")
    for correlation_id in (None, ""):
        await send(wire, operation, VALID[operation], reply_to=replies.name, correlation_id=correlation_id)
        _, reply = await answer_in(replies)
        assert reply["error"]["code"] == "INVALID_REQUEST"
        assert [detail["field"] for detail in reply["error"]["details"]] == ["correlation_id"]
    assert await stored(connection) == [[], [], []]


async def test_no_reply_to(wire: Wire, connection: Connection) -> None:
    """Nobody can hear the answer: the request is dropped, and nothing is done for it."""
    for operation, body in VALID.items():
        for each in (body, b"not JSON", b""):
            await send(wire, operation, each, correlation_id="mine")
            await send(wire, operation, each, reply_to="", correlation_id="mine")
            await send(wire, operation, each)
    for operation in VALID:
        await settled_without_writing(wire, operation)
    assert await stored(connection) == [[], [], []]


async def settled_without_writing(wire: Wire, operation: str) -> None:
    """Wait until the worker has long been past what was asked before."""
    for _ in range(20):
        assert (await wire.error(operation, b"not JSON"))["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("name", ["reply.gone", "amq.gen-gone", ""], ids=["allowed", "server-named", "was there"])
async def test_reply_queue_that_is_gone(wire: Wire, name: str) -> None:
    if not name:
        queue = await listen(wire)
        name = queue.name
        await queue.delete()
    for operation, body in VALID.items():
        for _ in range(5):
            await send(wire, operation, body, reply_to=name, correlation_id="mine")
        await settled(wire, operation)


@pytest.mark.parametrize(
    "reply_to",
    [
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.forged",
        "amq.rabbitmq.reply-to.a.b",
        "amq.rabbitmq.reply-to.!!!!.b",
        "amq.rabbitmq.reply-to.g2EF.b",
        "amq.rabbitmq.reply-to.g1hkAA5yYWJiaXRAbG9jYWxob3N0.key",
        "amq.rabbitmq.reply-to." + "x" * 230,
        "reply." + "x" * 249,
        "reply.\N{GRINNING FACE}\n\0",
        "/exchange/x",
        " ",
    ],
    ids=[
        "empty token",
        "forged token",
        "two letters",
        "not base64",
        "a number",
        "half a token",
        "long token",
        "long",
        "odd",
        "path",
        "blank",
    ],
)
async def test_reply_to_of_nobody(wire: Wire, reply_to: str) -> None:
    """Not even a forged token that makes the broker close the connection of who publishes to it."""
    for _ in range(5):
        await send(wire, "check-claims", VALID["check-claims"], reply_to=reply_to, correlation_id="mine")
    await settled(wire, "check-claims")


async def test_replies_never_go_into_our_own_queues(wire: Wire, connection: Connection) -> None:
    """A consumer that comes before the worker would see them there."""
    seen: list[tuple[str, str | None]] = []
    for asked, others in (
        ("find-runs-by-claim-id", [queue for queue in OUR_QUEUES if "find-runs" not in queue]),
        ("check-claims", ["export-runs.rpc.find-runs-by-claim-id"]),
    ):
        consumers = []
        for name in others:
            queue = await wire.channel.get_queue(name, ensure=False)

            async def take(message: AbstractIncomingMessage, name: str = name) -> None:
                seen.append((name, message.correlation_id))

            consumers.append((queue, await queue.consume(take, no_ack=True, arguments={"x-priority": 10})))
        for name in others:
            for body in (VALID[asked], b"not JSON"):
                await send(wire, asked, body, reply_to=name, correlation_id="forged")
        await settled(wire, asked)
        # That such a consumer does see what is there.
        await send(wire, others[-1].removeprefix("export-runs.rpc."), b"", correlation_id="seen")
        async with asyncio.timeout(WAIT_S):
            while not seen:
                await asyncio.sleep(POLL_S)
        for queue, tag in consumers:
            await queue.cancel(tag)
        assert seen == [(others[-1], "seen")]
        seen.clear()
    assert await stored(connection) == [[], [], []]


@every_operation
async def test_replies_never_go_into_queues_of_others(wire: Wire, connection: Connection, operation: str) -> None:
    """Nor is a request done whose answer may not be sent."""
    names = (
        "payments.in",
        "reply",
        "replyx",
        "Reply.x",
        "x.reply.",
        "amq.genx",
        "amq.gen",
        "export-runs",
        " reply.x",
    )
    queues = [await listen(wire, name) for name in names if not name.startswith("amq.")]
    for name in names:
        for body in (VALID[operation], b"not JSON"):
            await send(wire, operation, body, reply_to=name, correlation_id="mine")
    for exchange in ("export-runs.events", "export-runs.dead-letter", "export-runs.rpc"):
        await send(wire, operation, VALID[operation], reply_to=exchange, correlation_id="mine")
    await settled_without_writing(wire, operation)
    assert {queue.name: await wire.count_in(queue.name) for queue in queues if await wire.count_in(queue.name)} == {}
    assert await stored(connection) == [[], [], []]


@pytest.mark.parametrize("key", ["check-claim", "purge-export-run", "check-claims.x", "CHECK-CLAIMS", "#", ""])
async def test_unknown_operation(wire: Wire, key: str) -> None:
    """It comes back to who asked for it to be mandatory."""
    with pytest.raises(DeliveryError):
        await send(wire, key, VALID["check-claims"], reply_to="reply.x", correlation_id="mine")


# --- deadlines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expiration_s", [0, 0.001, 0.02], ids=["0", "1 ms", "20 ms"])
async def test_requests_that_expire(wire: Wire, connection: Connection, expiration_s: float) -> None:
    """They may stay unanswered. What is answered is answered well, what is stored is stored whole."""
    replies = await listen(wire, "reply.x")
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
        await settled_without_writing(wire, operation)
    while reply := await replies.get(fail=False, no_ack=True):
        answer = json.loads(reply.body)
        assert answer["ok"] or answer["error"]["code"] == "UNAVAILABLE"
    logged, runs, claims = await stored(connection)
    assert (len(logged), claims) == (len(runs), [])
    assert len({row[1] for row in runs}) == len(runs)


async def test_a_deadline_far_away(wire: Wire) -> None:
    reply = await wire.ask("check-claims", VALID["check-claims"], expiration=4_000_000)
    assert reply["ok"] is True


# --- pages -----------------------------------------------------------------------------------------------


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
    """One that was changed, that is another organisation's, or that comes with an offset is refused."""
    for org_id in ("org-1", "org-2"):
        for _ in range(2):
            await wire.result("create-export-run", **{**VALID["create-export-run"], "orgId": org_id})
    page = await wire.result("get-export-history", orgId="org-1", limit=1)
    cursor = page["nextCursor"]
    rest = await wire.result("get-export-history", orgId="org-1", limit=1, cursor=cursor)
    assert rest["runs"] != page["runs"]

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
    bodies["of another organisation"] = encode({"orgId": "org-2", "limit": 1, "cursor": cursor}), "cursor"
    for offset in (0, 1):
        both = encode({"orgId": "org-1", "limit": 1, "cursor": cursor, "offset": offset})
        bodies[f"with offset {offset}"] = both, "cursor"
        both = encode({"offset": offset, "cursor": cursor, "limit": 1, "orgId": "org-1"})
        bodies[f"after offset {offset}"] = both, "cursor"
    await assert_invalid(wire, "get-export-history", bodies)


# --- claims ----------------------------------------------------------------------------------------------


async def test_bounds_of_claim_checks(wire: Wire) -> None:
    """10,000 claims in the order asked; those asked twice come once."""
    finished = run_finished(claimIds=["c-7", "c-9999", "other"])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    asked = [f"c-{number}" for number in reversed(range(10_000))]
    checked = await wire.result("check-claims", orgId="org-1", claimIds=asked)
    assert [each["claimId"] for each in checked["exported"]] == ["c-9999", "c-7"]
    assert checked["unexported"] == [claim_id for claim_id in asked if claim_id not in ("c-9999", "c-7")]
    checked = await wire.result("check-claims", orgId="org-1", claimIds=["x", "c-7", "x", "c-7"] * 2_500)
    assert [each["claimId"] for each in checked["exported"]] == ["c-7"]
    assert checked["unexported"] == ["x"]


async def test_odd_claims(wire: Wire, connection: Connection) -> None:
    """Claims that differ in a byte are different claims; none of them is taken for anything but text."""
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
    assert await connection.fetchval("SELECT count(*) FROM export_run_claims") == len(odd)


# --- requests that contradict what is stored ---------------------------------------------------------------


@pytest.mark.parametrize("event", [run_created(), run_finished()], ids=["created", "finished"])
async def test_run_of_another_organisation(wire: Wire, connection: Connection, event: Json) -> None:
    """It is refused like a run that does not exist, and nothing changes."""
    await wire.publish("run-created" if "format" in event else "run-finished", event)
    known = await wire.until_run(event["runId"])
    before = await stored(connection)
    for operation in ("get-export-run-by-id", "update-export-run-status", "delete-export-run"):
        for org_id in ("org-2", "ORG-1", "org-1 "):
            request = {**VALID[operation], "orgId": org_id}
            refused = await wire.error(operation, {**request, "runId": event["runId"]})
            assert refused["code"] == "RUN_NOT_FOUND"
            assert refused == await wire.error(operation, {**request, "runId": str(uuid4())})
    taken = {**VALID["create-export-run"], "orgId": "org-2", "runId": event["runId"]}
    assert await refusal(wire, "create-export-run", encode(taken)) == ("CONFLICT", ["runId"])
    assert await stored(connection) == before
    assert await wire.run(event["runId"]) == known


@pytest.mark.parametrize("org", [{}, {"orgId": "org-1"}], ids=["without orgId", "with orgId"])
@pytest.mark.parametrize("operation", ["get-export-run-by-id", "update-export-run-status", "delete-export-run"])
async def test_unknown_run(wire: Wire, connection: Connection, operation: str, org: Json) -> None:
    code, _ = await refusal(wire, operation, encode({**VALID[operation], **org}))
    assert code == "RUN_NOT_FOUND"
    assert await stored(connection) == [[], [], []]


async def test_status_never_goes_down(wire: Wire, connection: Connection) -> None:
    """By request it goes up only; what would take it down is CONFLICT, and nothing is stored."""
    run = await wire.result("create-export-run", **VALID["create-export-run"])
    statuses = ["failed", "partial", "completed"]
    for height, status in enumerate(statuses):
        update: Json = {"runId": run["runId"], "status": status, "claimIds": [f"c-{height}"]}
        assert (await wire.result("update-export-run-status", **update))["status"] == status
        before = await stored(connection)
        for lower in statuses[:height]:
            body = encode({**update, "status": lower})
            assert await refusal(wire, "update-export-run-status", body) == ("CONFLICT", ["status"])
        pending = encode({**update, "status": "pending"})
        assert await refusal(wire, "update-export-run-status", pending) == ("INVALID_REQUEST", ["status"])
        assert await stored(connection) == before


CREATED: Json = {
    **VALID["create-export-run"],
    "targetSystem": "ledger",
    "periodStart": "2026-01-01",
    "periodEnd": "2026-01-31",
    "retryOfRunId": str(uuid4()),
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

OTHER_FACTS: dict[str, dict[str, list[Any]]] = {
    "create-export-run": {
        "orgId": ["org-2"],
        "triggeredBy": ["mallory", "Alice"],
        "format": ["xml"],
        "targetSystem": ["other", None, ...],
        "periodStart": ["2026-01-02", ...],
        "periodEnd": ["2026-02-01", None],
        "retryOfRunId": [str(uuid4()), ...],
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


@pytest.mark.parametrize("operation", OTHER_FACTS)
async def test_other_facts_than_those_stored(wire: Wire, connection: Connection, operation: str) -> None:
    """CONFLICT, and nothing is stored; the same facts again are no conflict."""
    run_id = str(uuid4())
    requests = {
        "create-export-run": {"runId": run_id, **CREATED},
        "update-export-run-status": {"runId": run_id, **FINISHED},
        "delete-export-run": {"runId": run_id, **DELETED},
    }
    for each, body in requests.items():
        await wire.result(each, **body)
    known = await wire.run(run_id)
    before = await stored(connection)
    codes = {
        f"{field} {value}": (await refusal(wire, operation, encode({**requests[operation], field: value})))[0]
        for field, values in OTHER_FACTS[operation].items()
        for value in values
    }
    assert {change: code for change, code in codes.items() if code != "CONFLICT"} == {}
    again = await wire.ask(operation, encode(dict(reversed(requests[operation].items()))))
    assert again["ok"] is True, again
    if operation == "update-export-run-status":
        reordered = {**requests[operation], "claimIds": ["c-2", "c-1", "c-2"], "orgId": "org-1"}
        assert (await wire.ask(operation, reordered))["ok"] is True
    assert await stored(connection) == before
    assert await wire.run(run_id) == known


async def test_contradictions_at_once(wire: Wire, connection: Connection) -> None:
    """Of many that contradict each other at the same time one is stored and the others hear CONFLICT."""
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
    [done] = [reply["result"] for reply in updates if reply["ok"]]
    run = await wire.run(run_id)
    assert run is not None
    assert {name: run[name] for name in done} == done
    logged, runs, claims = await stored(connection)
    assert (len(logged), len(runs), len(claims)) == (2, 1, 1)
