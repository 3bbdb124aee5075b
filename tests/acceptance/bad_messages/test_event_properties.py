"""Message properties, headers and routing keys that no exporter should send."""

import pytest

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import encode
from tests.acceptance.bad_messages.events import FORGED_HEADERS, VALID, BadEvent, assert_stored, both_types, burst
from tests.wire import Wire, run_created


@both_types
async def test_type_that_contradicts_the_routing_key(wire: Wire, connection: Connection, event_type: str) -> None:
    other = next(each for each in VALID if each != event_type)
    bads = {
        value: BadEvent(encode(VALID[event_type]()), "type", "TYPE_MISMATCH", {"type": value})
        for value in (other, "run-deleted", event_type.upper(), f"{event_type} ", "x" * 255)
    }
    bads["the other event"] = BadEvent(encode(VALID[other]()), "type", "TYPE_MISMATCH", {"type": other})
    await burst(wire, connection, event_type, bads)


@both_types
async def test_forged_headers_of_a_dead_letter(wire: Wire, connection: Connection, event_type: str) -> None:
    headers = {**FORGED_HEADERS, "traceparent": "00-ab-cd-01"}
    bads = {
        "forged": BadEvent(b"not JSON", "body", properties={"headers": headers}),
        "forged in upper case": BadEvent(
            b"not JSON", "body", properties={"headers": {name.upper(): "x" for name in FORGED_HEADERS}}
        ),
        "x-death a string": BadEvent(b"not JSON", "body", properties={"headers": {"x-death": "often"}}),
        "x-delivery-count a string": BadEvent(b"[]", "body", properties={"headers": {"x-delivery-count": "7"}}),
    }
    dead = await burst(wire, connection, event_type, bads)
    assert dead["forged"].headers["traceparent"] == "00-ab-cd-01"
    assert "forged" not in str(dead["forged"].headers).lower()


@both_types
async def test_headers_that_route_a_dead_letter_to_other_queues(
    wire: Wire, connection: Connection, event_type: str
) -> None:
    parked = f"export-runs.{event_type}.parked"
    routed = BadEvent(b"not JSON", "body", properties={"headers": {"CC": [parked], "cc": "mine"}})
    dead = await burst(wire, connection, event_type, {"routed": routed})
    assert "CC" not in dead["routed"].headers
    assert dead["routed"].headers["cc"] == "mine"
    assert await wire.count_in(parked) == 0


@both_types
async def test_one_message_id_for_many(wire: Wire, connection: Connection, event_type: str) -> None:
    """Publishers choose the `message_id`, and may use one twice. Each of the messages is stored or dead-lettered."""
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
