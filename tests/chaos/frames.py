"""Message properties that no well-behaved client can send."""

import struct
from collections.abc import Callable
from random import Random
from typing import Any, Final

from aiormq import spec
from pamqp import decode

_HEADERS = 1 << 13
_DELIVERY_MODE = 1 << 12
_MESSAGE_ID = 1 << 7
_TIMESTAMP = 1 << 6


class MalformedProperties(spec.Basic.Properties):
    """Properties that are sent as these bytes. Only the message id is well formed."""

    def __init__(self, message_id: str, headers: bytes, timestamp: bytes) -> None:
        super().__init__(message_id=message_id)
        flags = _DELIVERY_MODE | _MESSAGE_ID
        flags |= _HEADERS if headers else 0
        flags |= _TIMESTAMP if timestamp else 0
        name = message_id.encode()
        self._raw = struct.pack(">H", flags) + headers + b"\x02" + bytes([len(name)]) + name + timestamp

    def marshal(self) -> bytes:
        """The bytes that are sent."""
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


def malformed_properties(message_id: str, random: Random) -> spec.Basic.Properties:
    """Properties that make a careless decoder fail."""
    return random.choice(_MALFORMED)(message_id)


_decode_timestamp, _decode_table = decode.timestamp, decode.field_table


def read_malformed_properties() -> None:
    """Make the client library of this process read such properties, and not drop its connection."""
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _timestamp
    decode.METHODS["table"] = _tolerant_table


def _timestamp(value: bytes) -> tuple[int, Any]:
    try:
        return _decode_timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _tolerant_table(value: bytes) -> tuple[int, Any]:
    try:
        return _decode_table(value)
    except (ValueError, RecursionError):
        return 4 + int.from_bytes(value[:4], "big"), {}
