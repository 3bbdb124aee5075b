"""Events with a wrong field are dead-lettered with the reason."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import HUGE_FLOAT
from tests.acceptance.bad_messages.events import HUGE_INTEGER, VALID, artifact, both_types, burst, invalid
from tests.wire import Json, Wire

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


OPTIONAL: dict[str, dict[str, tuple[Json, str]]] = {
    "run-created": {
        "targetSystem number": ({"targetSystem": 5}, "targetSystem"),
        "targetSystem NUL": ({"targetSystem": "a\0"}, "targetSystem"),
        "trigger unknown": ({"trigger": "cron"}, "trigger"),
        "trigger upper case": ({"trigger": "MANUAL"}, "trigger"),
        "scope blank": ({"scope": " "}, "scope"),
        "scope array": ({"scope": ["chapter 7"]}, "scope"),
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
