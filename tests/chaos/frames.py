"""Message properties that no well-behaved client can send."""

import struct
from collections.abc import Callable
from random import Random
from typing import Final

from aiormq import spec

_HEADERS = 1 << 13
_DELIVERY_MODE = 1 << 12
_MESSAGE_ID = 1 << 7
_TIMESTAMP = 1 << 6


class MalformedProperties(spec.Basic.Properties):
    """Properties as bytes of our own making; the message id is in order."""

    def __init__(self, message_id: str, headers: bytes, timestamp: bytes) -> None:
        super().__init__(message_id=message_id)
        flags = _DELIVERY_MODE | _MESSAGE_ID
        flags |= _HEADERS if headers else 0
        flags |= _TIMESTAMP if timestamp else 0
        name = message_id.encode()
        self._raw = struct.pack(">H", flags) + headers + b"\x02" + bytes([len(name)]) + name + timestamp

    def marshal(self) -> bytes:
        """What goes over the wire."""
        return self._raw


def _table(key: bytes, kind: bytes, value: bytes) -> bytes:
    entry = bytes([len(key)]) + key + kind + value
    return struct.pack(">I", len(entry)) + entry


def _nested(levels: int) -> bytes:
    table = b""
    for _ in range(levels):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


_MALFORMED: Final[list[Callable[[str], MalformedProperties]]] = [
    lambda message_id: MalformedProperties(message_id, b"", struct.pack(">Q", 2**64 - 1)),
    lambda message_id: MalformedProperties(message_id, b"", struct.pack(">Q", 10**17)),
    lambda message_id: MalformedProperties(message_id, _table(b"t", b"T", struct.pack(">Q", 2**63)), b""),
    lambda message_id: MalformedProperties(message_id, _table(b"\xff\xfe", b"t", b"\x01"), b""),
    lambda message_id: MalformedProperties(message_id, _nested(3_000), b""),
]


def malformed(message_id: str, random: Random) -> spec.Basic.Properties:
    """Properties that a careless decoder chokes on."""
    return random.choice(_MALFORMED)(message_id)
