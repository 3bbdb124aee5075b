"""Read AMQP frames that a publisher filled with nonsense.

RabbitMQ passes message properties on as it got them. pamqp raises on a timestamp that Python cannot hold, on a
short string that is not UTF-8 and on tables nested too deep; aiormq then drops the connection, the message comes
back, and no consumer ever gets past it (mosquito/aiormq#186). Here such a value decodes to something harmless,
and the message goes the way of every other: its body decides.
"""

from typing import Final

from pamqp import decode
from pamqp.common import FieldTable, FieldValue, Struct

TIMESTAMP_BYTES: Final = 8

_decode_timestamp = decode.timestamp
_decode_short_string = decode.short_str
_decode_table = decode.field_table


def tolerate_malformed_properties() -> None:
    """Have this process read what pamqp would raise on. Does nothing the second time."""
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _timestamp
    decode.METHODS["shortstr"] = _short_string
    decode.METHODS["table"] = _table


def _timestamp(value: bytes) -> tuple[int, FieldValue]:
    try:
        return _decode_timestamp(value)
    except (ValueError, OverflowError, OSError):
        return TIMESTAMP_BYTES, None


def _short_string(value: bytes) -> tuple[int, str]:
    try:
        return _decode_short_string(value)
    except UnicodeDecodeError:
        length = value[0]
        # One byte for each that is wrong: the string must still fit when it is sent on.
        return length + 1, value[1 : length + 1].decode(errors="replace").replace("\N{REPLACEMENT CHARACTER}", "?")


def _table(value: bytes) -> tuple[int, FieldTable]:
    try:
        return _decode_table(value)
    except (ValueError, RecursionError):
        length: int = Struct.integer.unpack(value[:4])[0]
        return length + 4, {}
