"""What tests of bad events share: how to make bad events, and how to check what became of them."""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from aio_pika.abc import AbstractIncomingMessage

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import HUGE_FLOAT, encode, nested
from tests.wire import POLL_S, WAIT_S, Json, Wire, run_created, run_finished

VALID: dict[str, Callable[..., Json]] = {"run-created": run_created, "run-finished": run_finished}
both_types = pytest.mark.parametrize("event_type", VALID)

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

HUGE_INTEGER = "@" + "9" * 5_000
LARGE_INTEGER = "@" + "9" * 4_300  # Python's parser takes no integer with more digits

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
class BadEvent:
    """A body that must be dead-lettered with `code`. The error detail must contain `names`."""

    body: bytes
    names: str
    code: str = "INVALID_EVENT"
    properties: Json = field(default_factory=dict)


def padded(event: Json, size: int) -> bytes:
    """The body of an event, with an unknown field that makes it this many bytes long."""
    return encode({**event, "padding": "x" * (size - len(encode({**event, "padding": ""})))})


def invalid(event_type: str, fields: Mapping[str, tuple[Json, str]]) -> dict[str, BadEvent]:
    """Bad events: each is valid but for these fields."""
    return {name: BadEvent(encode(VALID[event_type](**wrong)), names) for name, (wrong, names) in fields.items()}


async def take_dead(wire: Wire, event_type: str, count: int) -> dict[str, AbstractIncomingMessage]:
    """Take out this many dead letters, or as many as come in time. Returns them by message id."""
    dead_letters = {}
    with suppress(TimeoutError):
        for _ in range(count):
            message = await wire.take_from(f"export-runs.{event_type}.dead")
            dead_letters[message.message_id or ""] = message
    return dead_letters


async def assert_stored(connection: Connection, events: Iterable[Json]) -> None:
    """Wait until these events are stored. Assert that nothing else is stored, not even a part of another event."""
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


def faults_of(dead: AbstractIncomingMessage, bad: BadEvent, event_type: str, since: datetime) -> Json:
    """The parts of a dead letter that are wrong, with the values of their headers."""
    headers = dict(dead.headers)
    failed_at = str(headers.get("x-failed-at"))
    checks = {
        "body": dead.body == bad.body,
        "x-error-code": headers.get("x-error-code") == bad.code,
        "x-error-detail": bad.names in str(headers.get("x-error-detail")),
        "x-failed-at": bool(RFC_3339.fullmatch(failed_at))
        and since <= datetime.fromisoformat(failed_at) <= datetime.now(UTC),
        "x-original-queue": headers.get("x-original-queue") == f"export-runs.{event_type}",
        "x-death": "x-death" not in headers and "x-first-death-queue" not in headers,
        "x-delivery-count": headers.get("x-delivery-count", 0) == 0,
    }
    return {name: headers.get(name) for name, is_right in checks.items() if not is_right}


async def burst(
    wire: Wire, connection: Connection, event_type: str, bads: Mapping[str, BadEvent], stored: Iterable[Json] = ()
) -> dict[str, AbstractIncomingMessage]:
    """Publish bad events, each between two good ones. Returns the dead letters.

    All bad events must be dead-lettered with the right headers, and all good events must be stored. `stored` are the
    events that were stored before.
    """
    since = datetime.now(UTC)
    good = [VALID[event_type](orgId="org-good") for _ in range(len(bads) + 1)]
    publishes = [wire.publish(event_type, good[0])]
    for (name, bad), next_good in zip(bads.items(), good[1:], strict=True):
        publishes.append(wire.publish(event_type, bad.body, **{"message_id": name, **bad.properties}))
        publishes.append(wire.publish(event_type, next_good))
    await asyncio.gather(*publishes)
    dead = await take_dead(wire, event_type, len(bads))
    assert set(dead) == set(bads)
    faults = {name: faults_of(dead[name], bad, event_type, since) for name, bad in bads.items()}
    assert {name: fault for name, fault in faults.items() if fault} == {}
    await assert_stored(connection, [*stored, *good])
    return dead


def artifact(**fields: Any) -> Json:
    """A valid artifact, with these fields in place of its own."""
    return {"artifact": {"key": "exports/1.csv", "sha256": "ab" * 32, "sizeBytes": 1, **fields}}


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


async def take_now(wire: Wire, queue: str) -> list[tuple[object, object]]:
    """Take out the dead letters that are in a queue now. Returns their error details and the start of their bodies."""
    messages = [await wire.take_from(queue) for _ in range(await wire.count_in(queue))]
    return [(message.headers.get("x-error-detail"), message.body[:200]) for message in messages]
