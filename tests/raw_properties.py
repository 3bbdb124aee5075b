"""Publish messages with properties that no well-behaved client sends."""

import struct
from typing import Any
from uuid import uuid4

from aiormq import spec

from tests.wire import Wire

HEADERS_FLAG = 1 << 13
MESSAGE_ID_FLAG = 1 << 7
TIMESTAMP_FLAG = 1 << 6


class RawProperties(spec.Basic.Properties):
    """Message properties that are sent as these bytes."""

    def __init__(self, flags: int, encoded: bytes) -> None:
        super().__init__(message_id=uuid4().hex)
        self.raw = struct.pack(">H", flags) + encoded

    def marshal(self) -> bytes:
        """The bytes that are sent."""
        return self.raw


def nested(levels: int) -> bytes:
    """Tables in tables, this many levels deep."""
    table = b""
    for _ in range(levels):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


def table(key: bytes, kind: bytes, value: bytes) -> bytes:
    """A table with one entry."""
    entry = bytes([len(key)]) + key + kind + value
    return struct.pack(">I", len(entry)) + entry


async def publish_raw(
    wire: Wire, exchange: str, routing_key: str, bodies: list[bytes], properties: RawProperties
) -> None:
    """Publish these bodies with properties that aio-pika would refuse."""
    channel: Any = await wire.channel.get_underlay_channel()
    for body in bodies:
        await channel.basic_publish(body, exchange=exchange, routing_key=routing_key, properties=properties)
