"""Bodies that are no event are dead-lettered with the reason, and harm nothing else."""

import json

from sql.connection import Connection
from tests.acceptance.bad_messages.bodies import BODY_BYTES_MAX, encode, nested
from tests.acceptance.bad_messages.events import HUGE_INTEGER, VALID, BadEvent, both_types, burst, padded
from tests.wire import Wire


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
    # An object without any known field lacks the first field. Anything else is a wrong body.
    wrong_fields = {"100 objects deep": "eventId"}
    await burst(
        wire,
        connection,
        event_type,
        {name: BadEvent(body, wrong_fields.get(name, "body")) for name, body in bodies.items()},
    )


@both_types
async def test_too_large(wire: Wire, connection: Connection, event_type: str) -> None:
    bodies = {
        "one byte more": padded(VALID[event_type](), BODY_BYTES_MAX + 1),
        "5 MiB": padded(VALID[event_type](), 5 * 1024 * 1024),
        "5 MiB of nothing": b" " * 5 * 1024 * 1024,
    }
    await burst(wire, connection, event_type, {name: BadEvent(body, "body") for name, body in bodies.items()})


@both_types
async def test_values_that_are_not_json(wire: Wire, connection: Connection, event_type: str) -> None:
    """NaN, infinities, lone surrogates, very deep nesting and very long integers, also in unknown fields."""
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
        name: BadEvent(encode(VALID[event_type](unknownField=value)), "body") for name, value in values.items()
    }
    in_unknown_name = {"surrogate in a name": BadEvent(encode(VALID[event_type](**{"\ud800": 1})), "body")}
    in_known_field = {
        "known lone surrogate": BadEvent(encode(VALID[event_type](orgId="\ud800")), ""),
        "known cut surrogate": BadEvent(encode(VALID[event_type](orgId="org \ud83d")), ""),
    }
    await burst(wire, connection, event_type, {**in_unknown_field, **in_unknown_name, **in_known_field})
