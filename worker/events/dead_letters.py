"""Events that cannot be processed are published to the dead-letter exchange, with the reason in their headers."""

import asyncio
import struct
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4
from weakref import WeakValueDictionary

import aio_pika
import structlog
from pamqp import encode
from pamqp.common import FieldTable

from schema import names
from schema.errors import DeadLetterCode
from schema.fields import shortened
from worker.broker.deliveries import Delivery
from worker.broker.publisher import Publisher

DETAIL_CHARS_MAX: Final = 2_000

HEADERS_BYTES_MAX: Final = 64 * 1024
"""For the exporter's own headers. All headers must fit one frame of 128 KiB, or RabbitMQ closes the connection."""

UNTRUSTED_HEADERS: Final = (
    "x-death",
    "x-delivery-count",
    "x-acquired-count",
    "x-first-death-",
    "x-last-death-",
    "x-error-",
    names.FAILED_AT_HEADER,
    names.ORIGINAL_QUEUE_HEADER,
    names.TIMES_PARKED_HEADER,
)
"""Headers that RabbitMQ and the worker write. What an exporter puts there may be forged, and is not passed on."""

PUBLISHERS_HEADER: Final = "x-publishers"
"""Who had published an event before that no worker has checked and somebody replays, each of them; empty where nobody
knows. Whoever forges the header only has more users checked."""

ROUTING_HEADERS: Final = frozenset({"CC", "BCC"})
"""RabbitMQ routes a message by these as well: a copy that has them would go to other queues besides its own."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class DeadLetters:
    """Publishes to the dead-letter exchange, of the messages with one `message_id` one at a time.

    aio-pika matches the messages that RabbitMQ returns to publishes by their `message_id`. The exporter chooses it,
    and may choose it twice: of two messages under way with one id, the returned one could be taken for confirmed.
    Others do not wait: a queue that confirms nothing delays only what goes there.
    """

    def __init__(self, publisher: Publisher, timeout_s: float, user_id: str | None = None) -> None:
        """With `user_id`, the worker's own, parked events say who parked them."""
        self._publisher = publisher
        self._user_id = user_id
        self._timeout_s = timeout_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One for each `message_id` under way."""

    async def publish(self, delivery: Delivery, event_type: str, code: DeadLetterCode, detail: str) -> bool:
        """Publish an event with the reason in its headers; returns whether it was confirmed. Raises SessionLost."""
        message = _dead_letter(delivery, names.event_queue(event_type), code, detail)
        confirmed = await self._publish(event_type, message)
        if confirmed:
            log.warning(
                "event_dead_lettered",
                event_type=event_type,
                message_id=delivery.header.properties.message_id,
                code=code,
                detail=detail,
            )
        return confirmed

    async def _publish(self, routing_key: str, message: aio_pika.Message) -> bool:
        async with self._locks.setdefault(message.message_id or uuid4().hex, asyncio.Lock()):
            return await self._publisher.publish(names.DEAD_LETTER_EXCHANGE, routing_key, message, self._timeout_s)

    async def park(self, delivery: Delivery, event_type: str, times: int) -> bool:
        """Have RabbitMQ keep an event for a while and deliver it again; returns whether it was confirmed.

        Raises SessionLost. For an event for which there is no room in the worker. It carries how many times that was
        so: RabbitMQ's own count, in `x-death`, begins anew with each publish from 4.0 on.
        """
        headers = trusted_headers(delivery.header.properties.headers or {})
        headers[names.TIMES_PARKED_HEADER] = times
        message = message_copy(delivery, headers, delivery.header.properties.message_type, self._user_id)
        queue = names.parked_queue(event_type)
        confirmed = await self._publish(queue, message)
        if confirmed:
            log.warning("event_parked_on_the_broker", event_type=event_type, message_id=message.message_id)
        return confirmed


def times_parked(delivery: Delivery) -> int:
    """How often RabbitMQ has kept an event for a while, as the worker noted that. Its exporter may have forged it."""
    times = (delivery.header.properties.headers or {}).get(names.TIMES_PARKED_HEADER)
    return max(0, times) if isinstance(times, int) else 0


def _dead_letter(delivery: Delivery, queue: str, code: DeadLetterCode, detail: str) -> aio_pika.Message:
    headers = trusted_headers(delivery.header.properties.headers or {})
    headers[names.ERROR_CODE_HEADER] = code.value
    headers[names.ERROR_DETAIL_HEADER] = shortened(detail, DETAIL_CHARS_MAX)
    headers[names.FAILED_AT_HEADER] = datetime.now(UTC).isoformat()
    headers[names.ORIGINAL_QUEUE_HEADER] = queue
    return message_copy(delivery, headers, delivery.header.properties.message_type)


def message_copy(
    delivery: Delivery, headers: FieldTable, event_type: str | None, user_id: str | None = None
) -> aio_pika.Message:
    """A persistent copy of a delivered message, with the same body and `message_id` but other headers.

    `user_id` is who publishes the copy, if that is to be told: RabbitMQ refuses the name of anybody else.
    """
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
        user_id=user_id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def trusted_headers(headers: FieldTable) -> FieldTable:
    """The exporter's own headers that nothing is routed by; none if they are too large or cannot be encoded."""
    own = {
        key: value
        for key, value in headers.items()
        if key not in ROUTING_HEADERS and not key.lower().startswith(UNTRUSTED_HEADERS)
    }
    try:
        return own if len(encode.field_table(own)) <= HEADERS_BYTES_MAX else {}
    except (ArithmeticError, RecursionError, TypeError, ValueError, struct.error):
        return {}
