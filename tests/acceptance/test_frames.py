"""Properties that cannot be decoded: the message is stored or dead-lettered like any other."""

import json
import struct
from typing import Any
from uuid import uuid4

import pytest
from aiormq import spec
from pamqp import encode

from tests.wire import Wire, run_created

HEADERS_FLAG = 1 << 13
MESSAGE_ID_FLAG = 1 << 7
TIMESTAMP_FLAG = 1 << 6


class RawProperties(spec.Basic.Properties):
    """Message properties as bytes of our own making."""

    def __init__(self, flags: int, encoded: bytes) -> None:
        super().__init__(message_id=uuid4().hex)
        self.raw = struct.pack(">H", flags) + encoded

    def marshal(self) -> bytes:
        return self.raw


def nested(levels: int) -> bytes:
    """A table in a table in a table."""
    table = b""
    for _ in range(levels):
        entry = b"\x01aF" + struct.pack(">I", len(table)) + table
        table = entry
    return struct.pack(">I", len(table)) + table


def table(key: bytes, kind: bytes, value: bytes) -> bytes:
    """A table with one entry."""
    entry = bytes([len(key)]) + key + kind + value
    return struct.pack(">I", len(entry)) + entry


MALFORMED = {
    "timestamp out of range": (TIMESTAMP_FLAG, struct.pack(">Q", 2**64 - 1)),
    "timestamp far away": (TIMESTAMP_FLAG, struct.pack(">Q", 10**17)),
    "message id not UTF-8": (MESSAGE_ID_FLAG, b"\x04\xff\xfeab"),
    "message id of 255 wrong bytes": (MESSAGE_ID_FLAG, b"\xff" + b"\xff" * 255),
    "header timestamp out of range": (HEADERS_FLAG, table(b"t", b"T", struct.pack(">Q", 2**63))),
    "header that no float holds": (HEADERS_FLAG, table(b"d", b"d", struct.pack(">d", 1e300))),
    "header name not UTF-8": (HEADERS_FLAG, table(b"\xff\xfe", b"t", b"\x01")),
    "3,000 nested headers": (HEADERS_FLAG, nested(3_000)),
    "900 nested headers": (HEADERS_FLAG, nested(900)),
    "100 KiB of headers": (HEADERS_FLAG, encode.field_table({"long": "x" * 100 * 1024})),
}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("flags", "encoded"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_properties(wire: Wire, flags: int, encoded: bytes) -> None:
    channel: Any = await wire.channel.get_underlay_channel()
    good = run_created()
    for body in (json.dumps(good).encode(), b"not JSON"):
        await channel.basic_publish(
            body,
            exchange="export-runs.events",
            routing_key="run-created",
            properties=RawProperties(flags, encoded),
        )
    await wire.until_run(good["runId"])
    dead = await wire.take_from("export-runs.run-created.dead")
    assert dead.body == b"not JSON"
    assert dead.headers["x-error-code"] == "INVALID_EVENT"
    assert await wire.count_in("export-runs.run-created.dead") == 0


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("flags", "encoded"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_properties_of_a_request(wire: Wire, flags: int, encoded: bytes) -> None:
    """Without a usable `reply_to` nobody can be answered; everybody else is, and the request is done with."""
    channel: Any = await wire.channel.get_underlay_channel()
    asked = {"orgId": "org-1", "claimIds": ["c-1"]}
    for body in (json.dumps(asked).encode(), b"not JSON"):
        await channel.basic_publish(
            body,
            exchange="export-runs.rpc",
            routing_key="check-claims",
            properties=RawProperties(flags, encoded),
        )
    assert (await wire.result("check-claims", **asked))["unexported"] == ["c-1"]
    assert await wire.count_in("export-runs.rpc.check-claims") == 0
