"""Events that contradict what is stored are dead-lettered with the reason."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import HUGE_FLOAT, encode, nested
from tests.acceptance.bad_messages.events import (
    LARGE_INTEGER,
    UNKNOWN_VALUES,
    VALID,
    BadEvent,
    assert_stored,
    both_types,
    burst,
    take_dead,
    take_now,
)
from tests.wire import POLL_S, WAIT_S, Json, Wire, run_created, run_finished

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
    bads: dict[str, BadEvent] = {}
    for name, (one, other) in NOTES.items():
        first[name] = VALID[event_type](note=one)
        bads[name] = BadEvent(encode({**first[name], "note": other}), "eventId", "EVENT_ID_REUSED")
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
        bads[name] = BadEvent(encode({**first[name], **changed}), "eventId", "EVENT_ID_REUSED")
    await asyncio.gather(*(wire.publish(event_type, encode(event)) for event in first.values()))
    await assert_stored(connection, first.values())
    await burst(wire, connection, event_type, bads, stored=first.values())
    runs = await asyncio.gather(*(wire.run(event["runId"]) for event in first.values()))
    assert not any(run is None or run["hasConflict"] for run in runs)


async def test_event_id_with_a_number_that_differs_only_past_float_precision(
    wire: Wire, connection: Connection
) -> None:
    """As floats the numbers would be equal, but the payloads differ."""
    pairs = {
        "huge": (HUGE_FLOAT, "@2e200000"),
        "2**53 and one more": ("@9007199254740992.0", "@9007199254740993.0"),
    }
    first = {name: run_created(note=one) for name, (one, _) in pairs.items()}
    await asyncio.gather(*(wire.publish("run-created", encode(event)) for event in first.values()))
    await assert_stored(connection, first.values())
    bads = {
        name: BadEvent(encode({**first[name], "note": other}), "eventId", "EVENT_ID_REUSED")
        for name, (_, other) in pairs.items()
    }
    await burst(wire, connection, "run-created", bads, stored=first.values())


@both_types
async def test_one_event_id_for_many_payloads_at_once(wire: Wire, connection: Connection, event_type: str) -> None:
    """One of them is stored, all others are dead-lettered."""
    event_id = str(uuid4())
    events = [VALID[event_type](eventId=event_id) for _ in range(20)]
    await asyncio.gather(*(wire.publish(event_type, event, message_id=event["runId"]) for event in events))
    dead = await take_dead(wire, event_type, len(events) - 1)
    assert {message.headers["x-error-code"] for message in dead.values()} == {"EVENT_ID_REUSED"}
    [stored] = [event for event in events if event["runId"] not in dead]
    await assert_stored(connection, [stored])


@both_types
async def test_the_same_event_in_another_spelling_is_a_duplicate(
    wire: Wire, connection: Connection, event_type: str
) -> None:
    """With other white space, another order of members or other escapes it is still the same payload."""
    events = [VALID[event_type](unknownField=value) for value in UNKNOWN_VALUES.values()]
    await asyncio.gather(*(wire.publish(event_type, encode(event)) for event in events))
    await assert_stored(connection, events)
    log = "SELECT event_id, payload::text FROM export_run_events ORDER BY event_id"
    before = await connection.fetch(log)
    for event in events:
        backwards = dict(reversed(event.items()))
        await wire.publish(event_type, encode(backwards))
        await wire.publish(event_type, encode(event, indent=2, ensure_ascii=False))
        await wire.publish(event_type, b" \r\n\t" + encode(event, sort_keys=True) + b"\n")
    last = VALID[event_type]()
    await wire.publish(event_type, last)
    # The queue keeps its order: when the last event is stored, all others are settled.
    await wire.until_run(last["runId"])
    assert await take_now(wire, f"export-runs.{event_type}.dead") == []
    await assert_stored(connection, [*events, last])
    assert [row for row in await connection.fetch(log) if str(row["event_id"]) != last["eventId"]] == before


@both_types
async def test_event_id_of_the_other_type(wire: Wire, connection: Connection, event_type: str) -> None:
    """A run-created and a run-finished have the same eventId, in the same run or in different runs."""
    other = next(each for each in VALID if each != event_type)
    first = [VALID[event_type]() for _ in range(2)]
    await asyncio.gather(*(wire.publish(event_type, event) for event in first))
    await assert_stored(connection, first)
    same_run = VALID[other](**{name: first[0][name] for name in ("eventId", "runId", "occurredAt")})
    other_run = VALID[other](eventId=first[1]["eventId"])
    bads = {
        "same run": BadEvent(encode(same_run), "eventId", "EVENT_ID_REUSED"),
        "other run": BadEvent(encode(other_run), "eventId", "EVENT_ID_REUSED"),
    }
    await burst(wire, connection, other, bads, stored=first)


async def test_event_id_of_both_types_at_once(wire: Wire, connection: Connection) -> None:
    """The first of the two is stored, the other is dead-lettered, and neither runs into a deadlock."""
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
@pytest.mark.parametrize("first_type", VALID)
async def test_run_of_another_organisation(
    wire: Wire, connection: Connection, first_type: str, event_type: str
) -> None:
    first = VALID[first_type](orgId="org-1")
    await wire.publish(first_type, first)
    run = await wire.until_run(first["runId"])
    bads = {
        org_id: BadEvent(
            encode(VALID[event_type](runId=first["runId"], orgId=org_id)),
            "runId",
            "RUN_OF_OTHER_ORGANISATION",
        )
        for org_id in ("org-2", "ORG-1", "org-1 ")
    }
    await burst(wire, connection, event_type, bads, stored=[first])
    assert await wire.run(first["runId"]) == run


@both_types
async def test_one_run_id_of_many_organisations_at_once(wire: Wire, connection: Connection, event_type: str) -> None:
    run_id = str(uuid4())
    events = [VALID[event_type](runId=run_id, orgId=f"org-{number}") for number in range(20)]
    await asyncio.gather(*(wire.publish(event_type, event, message_id=event["orgId"]) for event in events))
    dead = await take_dead(wire, event_type, len(events) - 1)
    assert {message.headers["x-error-code"] for message in dead.values()} == {"RUN_OF_OTHER_ORGANISATION"}
    await assert_stored(connection, [event for event in events if event["orgId"] not in dead])
