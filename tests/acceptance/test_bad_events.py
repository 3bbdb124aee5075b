"""Events that no exporter should publish: each is dead-lettered with its reason, and harms nothing else."""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage

from handlers.connection import Connection
from tests.wire import POLL_S, WAIT_S, Json, Wire, now, run_created, run_finished

pytestmark = pytest.mark.usefixtures("unharmed_worker")


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database for this whole file, empty at the start of each test."""
    return emptied_url


VALID: dict[str, Callable[..., Json]] = {"run-created": run_created, "run-finished": run_finished}
both_types = pytest.mark.parametrize("event_type", VALID)

BODY_BYTES_MAX = 4 * 1024 * 1024
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

# A string that starts with @ stands for a JSON token that Python cannot write.
RAW_TOKEN = re.compile(r'"@([^"]+)"')
HUGE_FLOAT = "@1e200000"
HUGE_INTEGER = "@" + "9" * 5_000
LARGE_INTEGER = "@" + "9" * 4_300  # the most digits that Python's own parser takes

FORGED_HEADERS: Json = {
    "x-death": [{"count": 99, "queue": "forged", "reason": "rejected", "exchange": "", "routing-keys": ["x"]}],
    "x-first-death-queue": "forged",
    "x-delivery-count": 1_000,
    "x-error-code": "FORGED",
    "x-error-detail": "forged",
    "x-failed-at": "1999-01-01T00:00:00Z",
    "x-original-queue": "forged",
}


@dataclass(frozen=True)
class Bad:
    """A body that must be dead-lettered, and what the detail must name."""

    body: bytes
    names: str
    code: str = "INVALID_EVENT"
    properties: Json = field(default_factory=dict)


def encode(event: Json, **json_options: Any) -> bytes:
    """A body: fields that are `...` are left out, tokens that start with @ are written as they are."""
    present = {name: value for name, value in event.items() if value is not ...}
    return RAW_TOKEN.sub(r"\1", json.dumps(present, **json_options)).encode()


def nested(levels: int) -> str:
    """A token: arrays in arrays."""
    return "@" + "[" * levels + "]" * levels


def padded(event: Json, size: int) -> bytes:
    """A body of this size, thanks to a field that nobody knows."""
    return encode({**event, "padding": "x" * (size - len(encode({**event, "padding": ""})))})


def invalid(event_type: str, fields: Mapping[str, tuple[Json, str]]) -> dict[str, Bad]:
    """Events that are valid but for these fields."""
    return {name: Bad(encode(VALID[event_type](**wrong)), names) for name, (wrong, names) in fields.items()}


async def take_dead(wire: Wire, event_type: str, count: int) -> dict[str, AbstractIncomingMessage]:
    """So many dead letters, or those that came in time, by message id."""
    taken = {}
    with suppress(TimeoutError):
        for _ in range(count):
            message = await wire.take_from(f"export-runs.{event_type}.dead")
            taken[message.message_id or ""] = message
    return taken


async def assert_stored(connection: Connection, events: Iterable[Json]) -> None:
    """Wait until these are stored, and assert that nothing else is, not even in part."""
    events = list(events)
    ids = {UUID(event["eventId"]) for event in events}
    with suppress(TimeoutError):
        async with asyncio.timeout(WAIT_S):
            while await connection.fetchval("SELECT count(*) FROM export_run_events") < len(ids):
                await asyncio.sleep(POLL_S)
    assert {row["event_id"] for row in await connection.fetch("SELECT event_id FROM export_run_events")} == ids
    runs = await connection.fetch("SELECT run_id, org_id FROM export_runs")
    assert {(str(row["run_id"]), row["org_id"]) for row in runs} == {
        (event["runId"], event["orgId"]) for event in events
    }
    claims = await connection.fetch("SELECT run_id, claim_id FROM export_run_claims")
    assert {(str(row["run_id"]), row["claim_id"]) for row in claims} == {
        (event["runId"], claim_id) for event in events for claim_id in event.get("claimIds", ())
    }


def faults_of(dead: AbstractIncomingMessage, bad: Bad, event_type: str, since: datetime) -> Json:
    """What is wrong with a dead letter."""
    headers = dict(dead.headers)
    failed_at = str(headers.get("x-failed-at"))
    right = {
        "body": dead.body == bad.body,
        "x-error-code": headers.get("x-error-code") == bad.code,
        "x-error-detail": bad.names in str(headers.get("x-error-detail")),
        "x-failed-at": bool(RFC_3339.fullmatch(failed_at))
        and since <= datetime.fromisoformat(failed_at) <= datetime.now(UTC),
        "x-original-queue": headers.get("x-original-queue") == f"export-runs.{event_type}",
        "x-death": "x-death" not in headers and "x-first-death-queue" not in headers,
        "x-delivery-count": headers.get("x-delivery-count", 0) == 0,
    }
    return {what: headers.get(what) for what, is_right in right.items() if not is_right}


async def burst(
    wire: Wire, connection: Connection, event_type: str, bads: Mapping[str, Bad], stored: Iterable[Json] = ()
) -> dict[str, AbstractIncomingMessage]:
    """Publish bad events, each between two good ones; assert what becomes of all. Returns the dead letters.

    `stored`: what is stored before.
    """
    since = datetime.now(UTC)
    good = [VALID[event_type](orgId="org-good") for _ in range(len(bads) + 1)]
    publishes = [wire.publish(event_type, good[0])]
    for (name, bad), beside in zip(bads.items(), good[1:], strict=True):
        publishes.append(wire.publish(event_type, bad.body, **{"message_id": name, **bad.properties}))
        publishes.append(wire.publish(event_type, beside))
    await asyncio.gather(*publishes)
    dead = await take_dead(wire, event_type, len(bads))
    assert set(dead) == set(bads)
    faults = {name: faults_of(dead[name], bad, event_type, since) for name, bad in bads.items()}
    assert {name: fault for name, fault in faults.items() if fault} == {}
    await assert_stored(connection, [*stored, *good])
    return dead


# --- bodies that are no event at all ---------------------------------------------------------------------


@both_types
async def test_no_event_at_all(wire: Wire, connection: Connection, event_type: str) -> None:
    valid = encode(VALID[event_type](orgId="orgé"), ensure_ascii=False)
    bodies = {
        "empty": b"",
        "white space": b" \n\t",
        "not JSON": b"run-created",
        "cut off": valid[:-1],
        "more after the end": valid + b"}",
        "two events": valid + valid,
        "comment": valid[:-1] + b"/* */}",
        "single quotes": b"{'eventId': 1}",
        "not UTF-8": valid.replace("é".encode(), b"\xe9"),
        "UTF-16": valid.decode().encode("utf-16"),
        "surrogate in UTF-8": valid.replace("é".encode(), b"\xed\xa0\x80"),
        "NUL bytes": b"\0" * 100,
        "raw control character": valid.replace("é".encode(), b"\x01"),
        "array": b"[" + valid + b"]",
        "string": json.dumps(valid.decode()).encode(),
        "number": b"1",
        "huge number": b"9" * 5_000,
        "true": b"true",
        "null": b"null",
        "NaN": b"NaN",
        "100 arrays deep": encode({"": nested(100)})[5:-1],
        "100 objects deep": b'{"a":' * 100 + b"1" + b"}" * 100,
        "10,000 arrays deep": b"[" * 10_000 + b"]" * 10_000,
        "10,000 objects deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        "100,000 arrays never closed": b"[" * 100_000,
    }
    # A body that is an object with nothing we know lacks the first field, another is no body.
    named = {"100 objects deep": "eventId"}
    await burst(
        wire,
        connection,
        event_type,
        {name: Bad(body, named.get(name, "body")) for name, body in bodies.items()},
    )


@both_types
async def test_too_large(wire: Wire, connection: Connection, event_type: str) -> None:
    bodies = {
        "one byte more": padded(VALID[event_type](), BODY_BYTES_MAX + 1),
        "5 MiB": padded(VALID[event_type](), 5 * 1024 * 1024),
        "5 MiB of nothing": b" " * 5 * 1024 * 1024,
    }
    await burst(wire, connection, event_type, {name: Bad(body, "body") for name, body in bodies.items()})


@both_types
async def test_what_only_looks_like_json(wire: Wire, connection: Connection, event_type: str) -> None:
    """NaN, infinities, lone surrogates, bottomless nesting, endless integers: in unknown fields too."""
    values = {
        "NaN": float("nan"),
        "Infinity": float("inf"),
        "-Infinity": float("-inf"),
        "nested NaN": [{"deep": [float("nan")]}],
        "lone surrogate": "\ud800",
        "lone low surrogate": "\udc00",
        "surrogates in the wrong order": "\udc00\ud800",
        "10,000 deep": nested(10_000),
        "integer of 5,000 digits": HUGE_INTEGER,
        "leading zero": "@01",
        "half a number": "@1.",
        "hexadecimal": "@0x10",
    }
    in_unknown_field = {
        name: Bad(encode(VALID[event_type](unknownField=value)), "body") for name, value in values.items()
    }
    in_unknown_name = {"surrogate in a name": Bad(encode(VALID[event_type](**{"\ud800": 1})), "body")}
    in_known_field = {
        "known lone surrogate": Bad(encode(VALID[event_type](orgId="\ud800")), ""),
        "known cut surrogate": Bad(encode(VALID[event_type](orgId="org \ud83d")), ""),
    }
    await burst(wire, connection, event_type, {**in_unknown_field, **in_unknown_name, **in_known_field})


# --- fields that are not what they should be -------------------------------------------------------------

REQUIRED = {
    "run-created": ("eventId", "schemaVersion", "occurredAt", "runId", "orgId", "triggeredBy", "format"),
    "run-finished": ("eventId", "schemaVersion", "occurredAt", "runId", "orgId", "status", "claimIds"),
}

SNAKE = {
    "eventId": "event_id",
    "schemaVersion": "schema_version",
    "occurredAt": "occurred_at",
    "runId": "run_id",
    "orgId": "org_id",
    "triggeredBy": "triggered_by",
    "claimIds": "claim_ids",
}


@both_types
async def test_missing_and_misnamed_fields(wire: Wire, connection: Connection, event_type: str) -> None:
    cases: dict[str, tuple[Json, str]] = {}
    for name in REQUIRED[event_type]:
        cases[f"no {name}"] = {name: ...}, name
        cases[f"null {name}"] = {name: None}, name
        cases[f"object {name}"] = {name: {"a": 1}}, name
        cases[f"upper case {name}"] = {name: ..., name.upper(): VALID[event_type]()[name]}, name
        if name in SNAKE:
            cases[f"snake case {name}"] = {name: ..., SNAKE[name]: VALID[event_type]()[name]}, name
    await burst(wire, connection, event_type, invalid(event_type, cases))


NAMES: dict[str, dict[str, Callable[[Any], Json]]] = {
    "run-created": {
        "orgId": lambda value: {"orgId": value},
        "triggeredBy": lambda value: {"triggeredBy": value},
        "format": lambda value: {"format": value},
    },
    "run-finished": {
        "orgId": lambda value: {"orgId": value},
        "claimIds.1": lambda value: {"claimIds": ["c-1", value]},
        "skippedClaims.0.claimId": lambda value: {"skippedClaims": [{"claimId": value, "reason": "why"}]},
    },
}

NOT_NAMES = {
    "empty": "",
    "blank": "   ",
    "no-break spaces": "\u00a0\u00a0",
    "em space": "\u2003",
    "line separator": "\u2028",
    "NUL": "\0",
    "NUL inside": "a\0b",
    "tab": "a\tb",
    "line end": "name\n",
    "escape": "\x1b[31mred",
    "delete": "a\x7f",
    "next line": "a\x85b",
    "201": "x" * 201,
    "201 emoji": "\N{GRINNING FACE}" * 201,
    "number": 5,
    "fraction": 1.5,
    "true": True,
    "null": None,
    "array": ["a"],
    "object": {"a": "b"},
}


@both_types
async def test_names(wire: Wire, connection: Connection, event_type: str) -> None:
    cases = {
        f"{path} {what}": (build(text), path)
        for path, build in NAMES[event_type].items()
        for what, text in NOT_NAMES.items()
    }
    await burst(wire, connection, event_type, invalid(event_type, cases))


NOT_TIMES = {
    "naive": "2026-01-01T00:00:00",
    "date": "2026-01-01",
    "number": 1_767_225_600,
    "fraction": 1_767_225_600.5,
    "number in a string": "1767225600",
    "milliseconds in a string": "1767225600000",
    "empty": "",
    "word": "now",
    "infinity": "infinity",
    "-infinity": "-infinity",
    "year 10,000": "10000-01-01T00:00:00Z",
    "year +10,000": "+10000-01-01T00:00:00Z",
    "year 0": "0000-01-01T00:00:00Z",
    "year -1": "-0001-01-01T00:00:00Z",
    "year 10,000 in UTC": "9999-12-31T23:59:59-01:00",
    "year 0 in UTC": "0001-01-01T00:00:00+01:00",
    "30 February": "2026-02-30T00:00:00Z",
    "month 13": "2026-13-01T00:00:00Z",
    "hour 25": "2026-01-01T25:00:00Z",
    "offset of 25 hours": "2026-01-01T00:00:00+25:00",
    "offset without colon": "2026-01-01T00:00:00+0100",
    "zone name": "2026-01-01T00:00:00 Europe/Berlin",
    "no seconds": "2026-01-01T00:00Z",
    "other digits": "\u0662\u0660\u0662\u0666-01-01T00:00:00Z",
    "NUL": "2026-01-01T00:00:00Z\0",
    "line end": "2026-01-01T00:00:00Z\n",
    "space before": " 2026-01-01T00:00:00Z",
    "huge": HUGE_INTEGER,
    "true": True,
    "array": ["2026-01-01T00:00:00Z"],
}

NOT_DATES = {
    "time": "2026-01-01T00:00:00Z",
    "midnight": "2026-01-01T00:00:00",
    "number": 20_454,
    "number in a string": "1767225600",
    "no zeros": "2026-1-1",
    "month 13": "2026-13-01",
    "year 10,000": "10000-01-01",
    "year 0": "0000-01-01",
    "infinity": "infinity",
    "empty": "",
}


@both_types
async def test_times(wire: Wire, connection: Connection, event_type: str) -> None:
    cases: dict[str, tuple[Json, str]] = {
        f"occurredAt {what}": ({"occurredAt": time}, "occurredAt") for what, time in NOT_TIMES.items()
    }
    # A number that no parser holds may be refused before its field is known.
    cases["occurredAt huge"] = cases["occurredAt huge"][0], ""
    if event_type == "run-created":
        for name in ("periodStart", "periodEnd"):
            cases |= {f"{name} {what}": ({name: date}, name) for what, date in NOT_DATES.items()}
        backwards = {"periodStart": "2026-02-01", "periodEnd": "2026-01-31"}
        cases["period backwards"] = backwards, "period"
    await burst(wire, connection, event_type, invalid(event_type, cases))


@both_types
async def test_versions_and_ids(wire: Wire, connection: Connection, event_type: str) -> None:
    versions = {
        "0": 0,
        "2": 2,
        "-1": -1,
        "string": "1",
        "1.0": 1.0,
        "true": True,
        "10**30": 10**30,
        "NaN": float("nan"),
        "Infinity": float("inf"),
        "1e200000": HUGE_FLOAT,
        "array": [1],
    }
    ids = {
        "number": 5,
        "empty": "",
        "word": "run-1",
        "too short": str(uuid4())[:-1],
        "too long": f"{uuid4()}0",
        "NUL": f"{uuid4()}\0",
        "array": [str(uuid4())],
    }
    cases: dict[str, tuple[Json, str]] = {
        f"schemaVersion {what}": ({"schemaVersion": version}, "schemaVersion") for what, version in versions.items()
    }
    for name in ("eventId", "runId"):
        cases |= {f"{name} {what}": ({name: value}, name) for what, value in ids.items()}
    if event_type == "run-created":
        cases |= {f"retryOfRunId {what}": ({"retryOfRunId": value}, "retryOfRunId") for what, value in ids.items()}
    cases["schemaVersion of 5,000 digits"] = {"schemaVersion": HUGE_INTEGER}, ""
    await burst(wire, connection, event_type, invalid(event_type, cases))


def artifact(**fields: Any) -> Json:
    """A valid artifact, with these fields in place of its own."""
    return {"artifact": {"key": "exports/1.csv", "sha256": "ab" * 32, "sizeBytes": 1, **fields}}


OPTIONAL: dict[str, dict[str, tuple[Json, str]]] = {
    "run-created": {
        "targetSystem number": ({"targetSystem": 5}, "targetSystem"),
        "targetSystem NUL": ({"targetSystem": "a\0"}, "targetSystem"),
        "override string": ({"override": "because"}, "override"),
        "override without reason": ({"override": {"approvedBy": "bob"}}, "override.reason"),
        "override blank reason": ({"override": {"reason": " ", "approvedBy": "bob"}}, "override.reason"),
        "override NUL": ({"override": {"reason": "a\0b", "approvedBy": "bob"}}, "override.reason"),
        "override by nobody": ({"override": {"reason": "why"}}, "override.approvedBy"),
        "override by NUL": ({"override": {"reason": "why", "approvedBy": "\0"}}, "override.approvedBy"),
        "override snake case": ({"override": {"reason": "why", "approved_by": "bob"}}, "override.approvedBy"),
    },
    "run-finished": {
        "status pending": ({"status": "pending"}, "status"),
        "status unknown": ({"status": "done"}, "status"),
        "status upper case": ({"status": "COMPLETED"}, "status"),
        "status number": ({"status": 3}, "status"),
        "status NUL": ({"status": "completed\0"}, "status"),
        "claimIds string": ({"claimIds": "c-1"}, "claimIds"),
        "claimIds object": ({"claimIds": {"0": "c-1"}}, "claimIds"),
        "claimIds nested": ({"claimIds": [["c-1"]]}, "claimIds.0"),
        "50,001 claims": ({"claimIds": [f"c-{number}" for number in range(50_001)]}, "claimIds"),
        "50,001 claims, all the same": ({"claimIds": ["c"] * 50_001}, "claimIds"),
        "50,000 numbers": ({"claimIds": list(range(50_000))}, "claimIds.0"),
        "last of 50,000 blank": ({"claimIds": [*(["c"] * 49_999), " "]}, "claimIds.49999"),
        "skippedClaims strings": ({"skippedClaims": ["c-1"]}, "skippedClaims.0"),
        "skippedClaims NUL": (
            {"skippedClaims": [{"claimId": "c", "reason": "\0"}]},
            "skippedClaims.0.reason",
        ),
        "skippedClaims no reason": ({"skippedClaims": [{"claimId": "c"}]}, "skippedClaims.0.reason"),
        "skippedClaims snake case": (
            {"skippedClaims": [{"claim_id": "c", "reason": "why"}]},
            "skippedClaims.0.claimId",
        ),
        "error string": ({"error": "it broke"}, "error"),
        "error NUL code": ({"error": {"code": "\0", "detail": "why"}}, "error.code"),
        "error NUL detail": ({"error": {"code": "E", "detail": "a\0b"}}, "error.detail"),
        "error number": ({"error": {"code": 500, "detail": "why"}}, "error.code"),
        "externalAckId number": ({"externalAckId": 7}, "externalAckId"),
        "externalAckId NUL": ({"externalAckId": "\0"}, "externalAckId"),
        "artifact NUL": (artifact(key="a\0b"), "artifact.key"),
        "sizeBytes string": (artifact(sizeBytes="1"), "artifact.sizeBytes"),
        "sizeBytes negative": (artifact(sizeBytes=-1), "artifact.sizeBytes"),
        "sizeBytes fraction": (artifact(sizeBytes=1.5), "artifact.sizeBytes"),
        "sizeBytes 2**63": (artifact(sizeBytes=2**63), "artifact.sizeBytes"),
        "sizeBytes 10**30": (artifact(sizeBytes=10**30), "artifact.sizeBytes"),
        "sizeBytes NaN": (artifact(sizeBytes=float("nan")), "artifact.sizeBytes"),
        "sizeBytes Infinity": (artifact(sizeBytes=float("inf")), "artifact.sizeBytes"),
        "sizeBytes -Infinity": (artifact(sizeBytes=float("-inf")), "artifact.sizeBytes"),
        "sizeBytes 1e200000": (artifact(sizeBytes=HUGE_FLOAT), "artifact.sizeBytes"),
        "sizeBytes of 5,000 digits": (artifact(sizeBytes=HUGE_INTEGER), ""),
    },
}


@both_types
async def test_optional_fields(wire: Wire, connection: Connection, event_type: str) -> None:
    await burst(wire, connection, event_type, invalid(event_type, OPTIONAL[event_type]))


# --- properties, headers and routing ---------------------------------------------------------------------


@both_types
async def test_type_that_contradicts_the_routing_key(wire: Wire, connection: Connection, event_type: str) -> None:
    other = next(each for each in VALID if each != event_type)
    bads = {
        said: Bad(encode(VALID[event_type]()), "type", "TYPE_MISMATCH", {"type": said})
        for said in (other, "run-deleted", event_type.upper(), f"{event_type} ", "x" * 255)
    }
    bads["the other event"] = Bad(encode(VALID[other]()), "type", "TYPE_MISMATCH", {"type": other})
    await burst(wire, connection, event_type, bads)


@both_types
async def test_forged_headers_of_a_dead_letter(wire: Wire, connection: Connection, event_type: str) -> None:
    headers = {**FORGED_HEADERS, "traceparent": "00-ab-cd-01"}
    bads = {
        "forged": Bad(b"not JSON", "body", properties={"headers": headers}),
        "forged in upper case": Bad(
            b"not JSON", "body", properties={"headers": {name.upper(): "x" for name in FORGED_HEADERS}}
        ),
        "x-death a string": Bad(b"not JSON", "body", properties={"headers": {"x-death": "often"}}),
        "x-delivery-count a string": Bad(b"[]", "body", properties={"headers": {"x-delivery-count": "7"}}),
    }
    dead = await burst(wire, connection, event_type, bads)
    assert dead["forged"].headers["traceparent"] == "00-ab-cd-01"
    assert "forged" not in str(dead["forged"].headers).lower()


@both_types
async def test_one_message_id_for_many(wire: Wire, connection: Connection, event_type: str) -> None:
    """`message_id` is the publisher's own and may repeat; each of the messages counts."""
    bodies = [f"not JSON {number}".encode() for number in range(20)]
    good = [VALID[event_type]() for _ in range(20)]
    for body, event in zip(bodies, good, strict=True):
        await wire.publish(event_type, body, message_id="the same")
        await wire.publish(event_type, event, message_id="the same")
    dead = [await wire.take_from(f"export-runs.{event_type}.dead") for _ in bodies]
    assert sorted(message.body for message in dead) == sorted(bodies)
    await assert_stored(connection, good)


@pytest.mark.parametrize(
    "routing_key",
    [
        "run-deleted",
        "run-purged",
        "run-created.dead",
        "run-created.x",
        "run.created",
        "#",
        "*",
        "",
        "x" * 255,
    ],
    ids=lambda key: key[:20] or "empty",
)
async def test_unknown_routing_keys(wire: Wire, connection: Connection, routing_key: str) -> None:
    body = encode(run_created())
    await wire.publish(routing_key, body, message_id="lost?")
    unroutable = await wire.take_from("export-runs.unroutable")
    assert (unroutable.body, unroutable.message_id, unroutable.routing_key) == (body, "lost?", routing_key)
    await assert_stored(connection, [])


# --- events that contradict what is stored ---------------------------------------------------------------

NOTES: dict[str, tuple[Any, Any]] = {
    "other text": ("a", "b"),
    "true and 1": (True, 1),
    "false and 0": (False, 0),
    "null and 0": (None, 0),
    "number and text": (1, "1"),
    "10**30 and one more": (10**30, 10**30 + 1),
    "large integers": (LARGE_INTEGER, LARGE_INTEGER[:-1] + "8"),
    "nested 100 deep": (nested(100), "@" + "[" * 100 + "1" + "]" * 100),
    "order of a list": ([1, 2], [2, 1]),
}


@both_types
async def test_event_id_with_another_payload(wire: Wire, connection: Connection, event_type: str) -> None:
    first: dict[str, Json] = {}
    bads: dict[str, Bad] = {}
    for name, (one, other) in NOTES.items():
        first[name] = VALID[event_type](note=one)
        bads[name] = Bad(encode({**first[name], "note": other}), "eventId", "EVENT_ID_REUSED")
    facts: dict[str, Json] = {
        "another run": {"runId": str(uuid4())},
        "another organisation": {"orgId": "org-2"},
        "another time": {"occurredAt": "2020-01-01T00:00:00Z"},
        "an additional field": {"unknownField": 1},
    }
    facts |= (
        {"another person": {"triggeredBy": "mallory"}, "another format": {"format": "xml"}}
        if event_type == "run-created"
        else {"another status": {"status": "failed"}, "other claims": {"claimIds": ["c-1", "c-7"]}}
    )
    for name, changed in facts.items():
        first[name] = VALID[event_type]()
        bads[name] = Bad(encode({**first[name], **changed}), "eventId", "EVENT_ID_REUSED")
    await asyncio.gather(*(wire.publish(event_type, encode(event)) for event in first.values()))
    await assert_stored(connection, first.values())
    await burst(wire, connection, event_type, bads, stored=first.values())
    runs = await asyncio.gather(*(wire.run(event["runId"]) for event in first.values()))
    assert not any(run is None or run["hasConflict"] for run in runs)


async def test_numbers_that_only_a_float_takes_for_equal(wire: Wire, connection: Connection) -> None:
    """They make another payload like any other number."""
    pairs = {
        "huge": (HUGE_FLOAT, "@2e200000"),
        "2**53 and one more": ("@9007199254740992.0", "@9007199254740993.0"),
    }
    first = {name: run_created(note=one) for name, (one, _) in pairs.items()}
    await asyncio.gather(*(wire.publish("run-created", encode(event)) for event in first.values()))
    await assert_stored(connection, first.values())
    bads = {
        name: Bad(encode({**first[name], "note": other}), "eventId", "EVENT_ID_REUSED")
        for name, (_, other) in pairs.items()
    }
    await burst(wire, connection, "run-created", bads, stored=first.values())


@both_types
async def test_one_event_id_for_many_payloads_at_once(wire: Wire, connection: Connection, event_type: str) -> None:
    """In one burst: one is stored, all others are dead-lettered."""
    event_id = str(uuid4())
    events = [VALID[event_type](eventId=event_id) for _ in range(20)]
    await asyncio.gather(*(wire.publish(event_type, event, message_id=event["runId"]) for event in events))
    dead = await take_dead(wire, event_type, len(events) - 1)
    assert {message.headers["x-error-code"] for message in dead.values()} == {"EVENT_ID_REUSED"}
    [stored] = [event for event in events if event["runId"] not in dead]
    await assert_stored(connection, [stored])


UNKNOWN_VALUES = {
    "text": "Grüße \N{GRINNING FACE}",
    "escaped NUL": "a\0b",
    "fraction": 0.1,
    "10**30": 10**30,
    "4,300 digits": LARGE_INTEGER,
    "1e200000": HUGE_FLOAT,
    "100 deep": nested(100),
    "object": {"b": [1, None, True], "a": {"z": 1, "y": 2}},
    "empty name": {"": 1},
}


@both_types
async def test_the_same_event_in_other_words_is_a_duplicate(
    wire: Wire, connection: Connection, event_type: str
) -> None:
    """Other white space, another order of members, other escapes: the same payload."""
    events = [VALID[event_type](unknownField=value) for value in UNKNOWN_VALUES.values()]
    await asyncio.gather(*(wire.publish(event_type, encode(event)) for event in events))
    await assert_stored(connection, events)
    logged = "SELECT event_id, payload::text FROM export_run_events ORDER BY event_id"
    before = await connection.fetch(logged)
    for event in events:
        backwards = dict(reversed(event.items()))
        await wire.publish(event_type, encode(backwards))
        await wire.publish(event_type, encode(event, indent=2, ensure_ascii=False))
        await wire.publish(event_type, b" \r\n\t" + encode(event, sort_keys=True) + b"\n")
    last = VALID[event_type]()
    await wire.publish(event_type, last)
    # The queue keeps its order: whatever was wrong with them, they are settled before the last one is stored.
    await wire.until_run(last["runId"])
    assert await take_now(wire, f"export-runs.{event_type}.dead") == []
    await assert_stored(connection, [*events, last])
    assert [row for row in await connection.fetch(logged) if str(row["event_id"]) != last["eventId"]] == before


async def take_now(wire: Wire, queue: str) -> list[tuple[object, object]]:
    """The reasons of the dead letters that are there."""
    messages = [await wire.take_from(queue) for _ in range(await wire.count_in(queue))]
    return [(message.headers.get("x-error-detail"), message.body[:200]) for message in messages]


@both_types
async def test_event_id_of_the_other_type(wire: Wire, connection: Connection, event_type: str) -> None:
    """One eventId for run-created and run-finished, of one run or of two."""
    other = next(each for each in VALID if each != event_type)
    first = [VALID[event_type]() for _ in range(2)]
    await asyncio.gather(*(wire.publish(event_type, event) for event in first))
    await assert_stored(connection, first)
    same_run = VALID[other](**{name: first[0][name] for name in ("eventId", "runId", "occurredAt")})
    other_run = VALID[other](eventId=first[1]["eventId"])
    bads = {
        "same run": Bad(encode(same_run), "eventId", "EVENT_ID_REUSED"),
        "other run": Bad(encode(other_run), "eventId", "EVENT_ID_REUSED"),
    }
    await burst(wire, connection, other, bads, stored=first)


async def test_event_id_of_both_types_at_once(wire: Wire, connection: Connection) -> None:
    """Whichever comes first is stored; the other is dead-lettered, and no deadlock stops either."""
    pairs = []
    for _ in range(20):
        created = run_created()
        pairs.append((created, run_finished(eventId=created["eventId"])))
    await asyncio.gather(
        *(wire.publish("run-created", created, message_id=created["runId"]) for created, _ in pairs),
        *(wire.publish("run-finished", finished, message_id=finished["runId"]) for _, finished in pairs),
    )
    async with asyncio.timeout(WAIT_S):
        while sum([await wire.count_in(f"export-runs.{each}.dead") for each in VALID]) < len(pairs):
            await asyncio.sleep(POLL_S)
    dead: dict[str, AbstractIncomingMessage] = {}
    for each in VALID:
        dead |= await take_dead(wire, each, await wire.count_in(f"export-runs.{each}.dead"))
    assert {message.headers["x-error-code"] for message in dead.values()} == {"EVENT_ID_REUSED"}
    stored = [[event for event in pair if event["runId"] not in dead] for pair in pairs]
    assert [len(events) for events in stored] == [1] * len(pairs)
    await assert_stored(connection, [event for [event] in stored])


@both_types
@pytest.mark.parametrize("known_by", VALID)
async def test_run_of_another_organisation(wire: Wire, connection: Connection, known_by: str, event_type: str) -> None:
    first = VALID[known_by](orgId="org-1")
    await wire.publish(known_by, first)
    known = await wire.until_run(first["runId"])
    bads = {
        org_id: Bad(
            encode(VALID[event_type](runId=first["runId"], orgId=org_id)),
            "runId",
            "RUN_OF_OTHER_ORGANISATION",
        )
        for org_id in ("org-2", "ORG-1", "org-1 ")
    }
    await burst(wire, connection, event_type, bads, stored=[first])
    assert await wire.run(first["runId"]) == known


@both_types
async def test_one_run_claimed_by_many_organisations_at_once(
    wire: Wire, connection: Connection, event_type: str
) -> None:
    run_id = str(uuid4())
    events = [VALID[event_type](runId=run_id, orgId=f"org-{number}") for number in range(20)]
    await asyncio.gather(*(wire.publish(event_type, event, message_id=event["orgId"]) for event in events))
    dead = await take_dead(wire, event_type, len(events) - 1)
    assert {message.headers["x-error-code"] for message in dead.values()} == {"RUN_OF_OTHER_ORGANISATION"}
    await assert_stored(connection, [event for event in events if event["orgId"] not in dead])


# --- odd, and allowed ------------------------------------------------------------------------------------

ODD: dict[str, Json] = {
    **{f"unknown field: {what}": {"unknownField": value} for what, value in UNKNOWN_VALUES.items()},
    "snake case beside camel case": {"org_id": 5, "run_id": None, "schema_version": 2},
    "NaN as text": {"orgId": "NaN", "note": "-Infinity"},
    "200 characters": {"orgId": "x" * 200},
    "200 emoji": {"orgId": "\N{GRINNING FACE}" * 200},
    "SQL": {"orgId": "'; DROP TABLE export_runs; --"},
    "backslashes and braces": {"orgId": '\\"{NULL,""}\\N'},
    "lower case t and z": {"occurredAt": "2026-01-01t00:00:00z"},
    "nanoseconds": {"occurredAt": "2026-01-01T00:00:00.123456789Z"},
    "long ago": {"occurredAt": "0001-02-01T00:00:00-14:00"},
    "far from now": {"occurredAt": "9999-12-01T00:00:00+14:00"},
}

ODD_OF_TYPE: dict[str, dict[str, Json]] = {
    "run-created": {
        "200 characters everywhere": {"triggeredBy": "x" * 200, "format": "y" * 200},
        "period of a day": {"periodStart": "2026-01-01", "periodEnd": "2026-01-01"},
        "retry of itself": {"retryOfRunId": str(uuid4())},
        "nulls": {"targetSystem": None, "periodStart": None, "override": None},
    },
    "run-finished": {
        "no claims": {"claimIds": []},
        "claims of 200 characters": {"claimIds": ["x" * 200, "\N{GRINNING FACE}" * 200]},
        "50,000 claims": {"claimIds": [f"many-{number}" for number in range(50_000)]},
        "one claim 50,000 times": {"claimIds": ["often"] * 50_000},
        "nulls": {"error": None, "artifact": None, "externalAckId": None},
        "sizeBytes 2**63 - 1": artifact(sizeBytes=2**63 - 1),
    },
}


@both_types
async def test_odd_events_are_stored(wire: Wire, connection: Connection, event_type: str) -> None:
    """To the letter in the log, and as a run that can be asked for."""
    events = [VALID[event_type](**fields) for fields in (*ODD.values(), *ODD_OF_TYPE[event_type].values())]
    bodies = [encode(event) for event in events]
    large = VALID[event_type]()
    events.append(large)
    bodies.append(padded(large, BODY_BYTES_MAX))
    await asyncio.gather(*(wire.publish(event_type, body) for body in bodies))
    await assert_stored(connection, events)
    assert await take_now(wire, f"export-runs.{event_type}.dead") == []
    logged = await connection.fetch("SELECT event_id, payload::text AS payload FROM export_run_events")
    written = {row["event_id"]: row["payload"] for row in logged}
    changed = [
        body[:200]
        for event, body in zip(events, bodies, strict=True)
        if written[UUID(event["eventId"])] != body.decode()
    ]
    assert changed == []
    for event in events:
        run = await wire.run(event["runId"])
        assert run is not None
        assert run["orgId"] == event["orgId"]
        assert run["claimIds"] == sorted(set(event.get("claimIds", [])))


@both_types
async def test_odd_properties_are_stored(wire: Wire, connection: Connection, event_type: str) -> None:
    """What a valid event carries beside its body decides nothing."""
    properties: list[Json] = [
        {"headers": FORGED_HEADERS},
        {"headers": {"x-delivery-count": -1}},
        {"headers": {"x-delivery-count": "often", "x-death": "often"}},
        {"type": None},
        {"message_id": "x" * 255},
        {"content_type": None},
        {"reply_to": "export-runs.run-created", "correlation_id": "mine"},
        {"priority": 255},
    ]
    events = [VALID[event_type]() for _ in properties]
    for event, each in zip(events, properties, strict=True):
        await wire.publish(event_type, event, **each)
    await assert_stored(connection, events)


async def test_long_ago_and_far_from_now_can_be_read(wire: Wire) -> None:
    ancient = run_created(occurredAt="0001-02-01T00:00:00-14:00")
    distant = run_created(occurredAt="9999-12-01T00:00:00+14:00")
    for event in (ancient, distant):
        await wire.publish("run-created", event)
        await wire.until_run(event["runId"])
    history = await wire.result("get-export-history", orgId="org-1")
    assert [run["createdAt"] for run in history["runs"]] == ["9999-11-30T10:00:00Z", "0001-02-01T14:00:00Z"]
    between = await wire.result("get-export-history", orgId="org-1", createdTo=now())
    assert [run["runId"] for run in between["runs"]] == [ancient["runId"]]


async def test_long_error_detail_is_cut_in_the_row_only(wire: Wire, connection: Connection) -> None:
    detail = "\N{GRINNING FACE}" * 5_000
    event = run_finished(status="failed", error={"code": "E", "detail": detail})
    await wire.publish("run-finished", event)
    run = await wire.until_run(event["runId"])
    assert run["error"]["detail"] == detail[:2_000]
    logged = await connection.fetchval("SELECT payload #>> '{error,detail}' FROM export_run_events")
    assert logged == detail
