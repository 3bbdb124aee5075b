"""Events that cannot be processed: out of the way, with the reason, and never lost."""

import asyncio
import struct
from datetime import UTC, datetime
from typing import Final

import aio_pika
import structlog
from pamqp import encode
from pamqp.common import FieldTable

from schema import names
from schema.errors import DeadLetterCode
from worker.amqp import Delivery, Link, publish

PUBLISH_TIMEOUT_S: Final = 15
DETAIL_CHARS_MAX: Final = 2_000

HEADERS_BYTES_MAX: Final = 64 * 1024
"""Of the exporter's own headers. All headers must fit one frame of 128 KiB, or the broker hangs up."""

UNTRUSTED_HEADERS: Final = (
    "x-death",
    "x-delivery-count",
    "x-acquired-count",
    "x-first-death-",
    "x-last-death-",
    "x-error-",
    names.FAILED_AT_HEADER,
    names.ORIGINAL_QUEUE_HEADER,
)
"""What the broker and the worker write into headers; from outside it may be forged: it is not passed on."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class DeadLetters:
    """Publishes to the dead-letter exchange, one message at a time.

    aio-pika matches the broker's returns to publishes by `message_id`, which is the exporter's own and may
    repeat: of two under way with one id, the wrong one could be taken for stored.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._one_at_a_time = asyncio.Lock()

    async def publish(self, delivery: Delivery, event_type: str, code: DeadLetterCode, detail: str) -> bool:
        """Publish an event with the reason in its headers; whether the broker has confirmed it. Raises SessionLost."""
        message = _dead_letter(delivery, names.event_queue(event_type), code, detail)
        async with self._one_at_a_time:
            confirmed = await publish(self._link, names.DEAD_LETTER_EXCHANGE, event_type, message, PUBLISH_TIMEOUT_S)
        if confirmed:
            log.warning(
                "event_dead_lettered",
                event_type=event_type,
                message_id=delivery.header.properties.message_id,
                code=code,
                detail=detail,
            )
        return confirmed


def _dead_letter(delivery: Delivery, queue: str, code: DeadLetterCode, detail: str) -> aio_pika.Message:
    headers = trusted_headers(delivery.header.properties.headers or {})
    headers[names.ERROR_CODE_HEADER] = code.value
    headers[names.ERROR_DETAIL_HEADER] = detail[:DETAIL_CHARS_MAX]
    headers[names.FAILED_AT_HEADER] = datetime.now(UTC).isoformat()
    headers[names.ORIGINAL_QUEUE_HEADER] = queue
    return again(delivery, headers, delivery.header.properties.message_type)


def again(delivery: Delivery, headers: FieldTable, event_type: str | None) -> aio_pika.Message:
    """The message of a delivery, persistent, to be published with other headers: same body, same `message_id`."""
    properties = delivery.header.properties
    return aio_pika.Message(
        delivery.body,
        headers=headers,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        correlation_id=properties.correlation_id,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=event_type,
        app_id=properties.app_id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def trusted_headers(headers: FieldTable) -> FieldTable:
    """The exporter's own headers; none where they cannot be encoded again or would not fit."""
    own = {key: value for key, value in headers.items() if not key.lower().startswith(UNTRUSTED_HEADERS)}
    try:
        return own if len(encode.field_table(own)) <= HEADERS_BYTES_MAX else {}
    except (ArithmeticError, RecursionError, TypeError, ValueError, struct.error):
        return {}
