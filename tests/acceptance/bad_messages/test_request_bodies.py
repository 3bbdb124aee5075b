"""Each body or field that is not valid is refused with its reason. Nothing is stored."""

import json
from uuid import uuid4

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import BODY_BYTES_MAX, HUGE_FLOAT, encode, nested
from tests.acceptance.bad_messages.requests import (
    SNAKE,
    VALID,
    assert_invalid,
    every_operation,
    is_answered,
    refusal,
    stored_rows,
)
from tests.wire import Json, Wire

DEEP = nested(100)


@every_operation
async def test_a_body_that_is_no_request_is_refused(wire: Wire, connection: Connection, operation: str) -> None:
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
    assert await stored_rows(connection) == [[], [], []]


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
NOT_DATES: Json = {"time": "2026-01-01T00:00:00Z", "number": 5, "year 10,000": "10000-01-01", "month 13": "2026-13-01"}
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
        "trigger": {"unknown": "cron", "empty": "", "number": 1},
        "scope": {"NUL": "\0", "blank": " ", "number": 5},
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
        "format": {"NUL": "\0", "number": 5},
        "triggeredBy": {"NUL": "\0", "number": 5},
        "externalAckId": {"NUL": "\0", "number": 5},
        "scope": {"NUL": "\0", "number": 5},
        "trigger": {"unknown": "cron", "upper case": "API", "number": 1},
        "hasConflict": {"string": "true", "number": 1},
        "periodFrom": NOT_DATES,
        "periodTo": NOT_DATES,
    },
    "get-export-run-by-id": {"runId": NOT_IDS, "orgId": NOT_NAMES},
    "list-run-claims": {
        "runId": NOT_IDS,
        "orgId": NOT_NAMES,
        "limit": {**NOT_LIMITS, "0": 0, "10,001": 10_001},
        "cursor": {"empty": "", "word": "next", "NUL": "\0", "number": 5},
        "outcome": {"unknown": "paid", "upper case": "EXPORTED", "number": 1},
    },
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
    "reverse-export": {
        "orgId": NOT_NAMES,
        "runId": NOT_IDS,
        "claimIds": {**NOT_CLAIM_LISTS, "none": [], "10,001": [f"c-{number}" for number in range(10_001)]},
        "reason": {"empty": "", "blank": " \n", "NUL": "a\0b", "number": 5},
        "reversedBy": NOT_NAMES,
        "approvedBy": {**NOT_NAMES, "the same person": "bob", "the same person, with a space": "bob "},
        "externalReversalId": {"NUL": "\0", "number": 5},
    },
    "list-double-exports": {
        "orgId": NOT_NAMES,
        "limit": {**NOT_LIMITS, "0": 0, "201": 201},
        "cursor": {"empty": "", "number": 5, "word": "next", "long": "A" * 10_000},
        "resolved": {"string": "true", "number": 1},
    },
    "resolve-double-export": {
        "orgId": NOT_NAMES,
        "claimId": NOT_NAMES,
        "resolvedBy": NOT_NAMES,
        "note": {"empty": "", "blank": " \n", "NUL": "a\0b", "number": 5},
        "runCount": {**NOT_LIMITS, "0": 0, "2**63": 2**63},
    },
    "explain-claim": {
        "orgId": NOT_NAMES,
        "claimId": NOT_NAMES,
        "limit": {**NOT_LIMITS, "0": 0, "201": 201},
        "cursor": {"empty": "", "number": 5, "word": "next", "long": "A" * 10_000},
    },
    "check-period": {
        "orgId": NOT_NAMES,
        "periodStart": NOT_DATES,
        "periodEnd": {**NOT_DATES, "before the start": "2025-12-31"},
        "targetSystem": {"NUL": "\0", "number": 5},
        "scope": {"NUL": "\0", "number": 5},
    },
    "get-last-export": {
        "orgId": NOT_NAMES,
        "targetSystem": {"NUL": "\0", "number": 5},
        "scope": {"NUL": "\0", "number": 5},
    },
    "list-stale-runs": {
        "orgId": NOT_NAMES,
        "olderThanSeconds": {**NOT_LIMITS, "0": 0},
        "limit": {**NOT_LIMITS, "0": 0, "201": 201},
        "cursor": {"empty": "", "number": 5, "word": "next", "long": "A" * 10_000},
    },
}


@every_operation
async def test_each_wrong_field_is_refused_by_its_name(wire: Wire, connection: Connection, operation: str) -> None:
    """So is a field that is missing, null or in snake case. Nothing is stored."""
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
    assert await stored_rows(connection) == [[], [], []]


async def test_each_wrong_field_inside_another_is_refused_by_its_name(wire: Wire, connection: Connection) -> None:
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
    assert await stored_rows(connection) == [[], [], []]


async def test_a_refusal_names_all_wrong_fields(wire: Wire) -> None:
    _, fields = await refusal(wire, "create-export-run", b'{"orgId": "", "format": 5}')
    assert sorted(fields) == ["format", "orgId", "triggeredBy"]
    code, fields = await refusal(wire, "check-claims", encode({"orgId": "o", "claimIds": list(range(10_000))}))
    assert (code, fields[0]) == ("INVALID_REQUEST", "claimIds.0")


@every_operation
async def test_unknown_fields_are_ignored(wire: Wire, operation: str) -> None:
    """Among them are names in snake case, names of AMQP properties, and 4 MiB of padding."""
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
