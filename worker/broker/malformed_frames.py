"""Read AMQP frames whose message properties are malformed.

RabbitMQ passes message properties on as their publisher wrote them. pamqp raises on a timestamp that Python cannot
hold, on a short string that is not UTF-8, and on tables that are nested too deep. aiormq then drops the connection,
RabbitMQ redelivers the message, and no consumer ever gets past it (mosquito/aiormq#186). Here such a value decodes to
something harmless, and the message is judged by its body like any other.
"""

from typing import Final

from pamqp import decode
from pamqp.common import FieldTable, FieldValue, Struct

TIMESTAMP_BYTES: Final = 8

_decode_timestamp = decode.timestamp
_decode_short_string = decode.short_str
_decode_table = decode.field_table


def tolerate_malformed_properties() -> None:
    """Change pamqp, in this process, so that it reads such properties. It may be called more than once."""
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
        # One byte for each wrong byte: a dead letter's copy of the string must not be longer.
        return length + 1, value[1 : length + 1].decode(errors="replace").replace("\N{REPLACEMENT CHARACTER}", "?")


def _table(value: bytes) -> tuple[int, FieldTable]:
    try:
        return _decode_table(value)
    except (ValueError, RecursionError):
        length: int = Struct.integer.unpack(value[:4])[0]
        return length + 4, {}
