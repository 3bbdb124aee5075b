"""The exchanges and queues of the service, as data, and the one loop that declares them (DESIGN section 2).

Everything here means the same on RabbitMQ 3.10 and 4.x: where a default differs between them, the argument is
set.
"""

from dataclasses import dataclass, field
from typing import Final

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelPreconditionFailed
from pamqp.common import FieldValue

from schema import names
from schema.events import EVENTS
from schema.operations import OPERATIONS

DELIVERY_LIMIT: Final = 50
"""Deliveries after which RabbitMQ dead-letters an event. On 3.10 every lost connection counts, so not few."""

DEAD_LETTER_DELIVERY_LIMIT: Final = 1_000_000
"""Looking at a dead letter is a delivery too. From 4.0 a queue without a limit gets one of 20."""

EVENT_QUEUE_LENGTH_MAX: Final = 10_000_000
DEAD_LETTER_QUEUE_LENGTH_MAX: Final = 1_000_000
"""Past these the broker refuses what is published, and a confirming publisher hears it."""

ALERTS_QUEUE_LENGTH_MAX: Final = 1_000_000
"""Past this alerts wait in the database."""

RPC_QUEUE_LENGTH_MAX: Final = 10_000
RPC_QUEUE_TTL_MS: Final = 30_000
"""A request that nobody can still be waiting for disappears."""

DECLARE_TIMEOUT_S: Final = 15

Arguments = dict[str, FieldValue]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue, bound to one exchange by one routing key."""

    name: str
    exchange: str
    routing_key: str
    arguments: Arguments


class TopologyMismatch(Exception):
    """The broker has an exchange or a queue of this name with other properties; retrying cannot help."""


EXCHANGES: Final = (
    Exchange(names.UNROUTABLE_EXCHANGE, "fanout"),
    Exchange(names.EVENTS_EXCHANGE, "topic", {"alternate-exchange": names.UNROUTABLE_EXCHANGE}),
    Exchange(names.RPC_EXCHANGE, "topic"),
    Exchange(names.DEAD_LETTER_EXCHANGE, "topic"),
    Exchange(names.ALERTS_EXCHANGE, "topic"),
)


def _event_queue(event_type: str) -> Queue:
    return Queue(
        names.event_queue(event_type),
        names.EVENTS_EXCHANGE,
        event_type,
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-max-length": EVENT_QUEUE_LENGTH_MAX,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": names.DEAD_LETTER_EXCHANGE,
            "x-dead-letter-routing-key": event_type,
            "x-dead-letter-strategy": "at-least-once",
        },
    )


def _dead_letter_queue(name: str, exchange: str, routing_key: str) -> Queue:
    return Queue(
        name,
        exchange,
        routing_key,
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": DEAD_LETTER_DELIVERY_LIMIT,
            "x-max-length": DEAD_LETTER_QUEUE_LENGTH_MAX,
            "x-overflow": "reject-publish",
        },
    )


def _alerts_queue() -> Queue:
    return Queue(
        names.ALERTS_QUEUE,
        names.ALERTS_EXCHANGE,
        "#",
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": DEAD_LETTER_DELIVERY_LIMIT,
            "x-max-length": ALERTS_QUEUE_LENGTH_MAX,
            "x-overflow": "reject-publish",
        },
    )


def _rpc_queue(operation: str) -> Queue:
    return Queue(
        names.rpc_queue(operation),
        names.RPC_EXCHANGE,
        operation,
        {
            "x-queue-type": "classic",
            "x-queue-version": 2,
            "x-max-length": RPC_QUEUE_LENGTH_MAX,
            "x-overflow": "reject-publish",
            "x-message-ttl": RPC_QUEUE_TTL_MS,
        },
    )


QUEUES: Final = (
    _dead_letter_queue(names.UNROUTABLE_QUEUE, names.UNROUTABLE_EXCHANGE, ""),
    *(
        _dead_letter_queue(names.dead_letter_queue(event_type), names.DEAD_LETTER_EXCHANGE, event_type)
        for event_type in EVENTS
    ),
    *(_event_queue(event_type) for event_type in EVENTS),
    _alerts_queue(),
    *(_rpc_queue(operation.name) for operation in OPERATIONS),
)
"""In an order in which nothing that is dead-lettered or unroutable finds its queue missing."""


async def declare(channel: AbstractChannel) -> None:
    """Declare everything; does nothing where it is there already. Raises TopologyMismatch."""
    for exchange in EXCHANGES:
        try:
            await channel.declare_exchange(
                exchange.name,
                exchange.type,
                durable=True,
                arguments=exchange.arguments,
                timeout=DECLARE_TIMEOUT_S,
            )
        except ChannelPreconditionFailed as error:
            raise TopologyMismatch(f"exchange {exchange.name}: {error}") from error
    for queue in QUEUES:
        try:
            declared = await channel.declare_queue(
                queue.name, durable=True, arguments=queue.arguments, timeout=DECLARE_TIMEOUT_S
            )
            await declared.bind(queue.exchange, queue.routing_key, timeout=DECLARE_TIMEOUT_S)
        except ChannelPreconditionFailed as error:
            raise TopologyMismatch(f"queue {queue.name}: {error}") from error
