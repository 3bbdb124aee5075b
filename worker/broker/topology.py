"""The exchanges and queues of the service, as data.

Everything here means the same on RabbitMQ 3.10 and 4.x: where their defaults differ, the argument is set.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from pamqp.common import FieldValue

from schema import names
from schema.events import EVENTS
from schema.operations import OPERATIONS

DELIVERY_LIMIT: Final = 50
"""Deliveries after which RabbitMQ dead-letters an event. On 3.10 every lost connection counts, so it is not low."""

DEAD_LETTER_DELIVERY_LIMIT: Final = 1_000_000
"""To look at a dead letter is a delivery too. From 4.0 on, a queue without a limit gets one of 20."""

EVENT_QUEUE_LENGTH_MAX: Final = 10_000_000
DEAD_LETTER_QUEUE_LENGTH_MAX: Final = 1_000_000
"""When a queue is full, RabbitMQ refuses what is published, and tells publishers that wait for confirms."""

PARKED_QUEUE_LENGTH_MAX: Final = 1_000_000
PARKED_QUEUE_TTL_MS: Final = 30_000
"""After that RabbitMQ puts a parked event back into the queue of its type."""

ALERTS_QUEUE_LENGTH_MAX: Final = 1_000_000
"""When the queue is full, alerts wait in the database."""

LEADER_LOCATOR: Final = "x-queue-leader-locator"
"""Which node of a cluster leads a new quorum queue: the one with the fewest, where RabbitMQ would take the one that the
worker is connected to. A policy overrides it. How many nodes have the queue is left to RabbitMQ: three, if nothing else
is configured, on 3.10 and 4.x alike.
"""

RPC_QUEUE_LENGTH_MAX: Final = 10_000
RPC_QUEUE_TTL_MS: Final = 30_000
"""RabbitMQ removes a request that has waited so long: its caller has given up."""

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
    """What the service relies on: a queue that has others is refused."""

    limits: Arguments
    """What a new queue gets, and what an operator may have set otherwise, by other arguments or by a policy."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What routes messages from an exchange to a queue."""

    queue: str
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Topology:
    """All exchanges and queues, in the order in which they are declared, and the bindings of earlier versions."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    former_bindings: tuple[Binding, ...] = ()

    def only(self, *, events: bool, requests: bool) -> "Topology":
        """What is needed for events, for requests, or for both: neither waits for a queue of the other."""

        def is_wanted(exchange: str) -> bool:
            return requests if exchange == names.RPC_EXCHANGE else events

        return Topology(
            tuple(each for each in self.exchanges if is_wanted(each.name)),
            tuple(each for each in self.queues if is_wanted(each.exchange)),
            tuple(each for each in self.former_bindings if is_wanted(each.exchange)),
        )

    def with_quorum_rpc_queues(self) -> "Topology":
        """The same with request queues that more than one node has."""
        return replace(
            self,
            queues=tuple(
                replace(each, arguments=_QUORUM_RPC_ARGUMENTS, limits=_QUORUM_RPC_LIMITS)
                if each.exchange == names.RPC_EXCHANGE
                else each
                for each in self.queues
            ),
        )


def _event_queue(event_type: str) -> Queue:
    return Queue(
        names.event_queue(event_type),
        names.EVENTS_EXCHANGE,
        event_type,
        {
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": names.DEAD_LETTER_EXCHANGE,
            "x-dead-letter-routing-key": event_type,
            "x-dead-letter-strategy": "at-least-once",
        },
        {**_QUORUM_LIMITS, "x-delivery-limit": DELIVERY_LIMIT, "x-max-length": EVENT_QUEUE_LENGTH_MAX},
    )


def _dead_letter_queue(name: str, exchange: str, routing_key: str) -> Queue:
    return Queue(
        name,
        exchange,
        routing_key,
        {"x-queue-type": "quorum", "x-overflow": "reject-publish"},
        {
            **_QUORUM_LIMITS,
            "x-delivery-limit": DEAD_LETTER_DELIVERY_LIMIT,
            "x-max-length": DEAD_LETTER_QUEUE_LENGTH_MAX,
        },
    )


def _parked_queue(event_type: str) -> Queue:
    name = names.parked_queue(event_type)
    return Queue(
        name,
        names.DEAD_LETTER_EXCHANGE,
        name,
        {
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-message-ttl": PARKED_QUEUE_TTL_MS,
            "x-dead-letter-exchange": names.EVENTS_EXCHANGE,
            "x-dead-letter-routing-key": event_type,
            "x-dead-letter-strategy": "at-least-once",
        },
        {**_QUORUM_LIMITS, "x-delivery-limit": DELIVERY_LIMIT, "x-max-length": PARKED_QUEUE_LENGTH_MAX},
    )


def _alerts_queue() -> Queue:
    return Queue(
        names.ALERTS_QUEUE,
        names.UNROUTABLE_ALERTS_EXCHANGE,
        "",
        {"x-queue-type": "quorum", "x-overflow": "reject-publish"},
        {**_QUORUM_LIMITS, "x-delivery-limit": DEAD_LETTER_DELIVERY_LIMIT, "x-max-length": ALERTS_QUEUE_LENGTH_MAX},
    )


def _rpc_queue(operation: str) -> Queue:
    return Queue(
        names.rpc_queue(operation),
        names.RPC_EXCHANGE,
        operation,
        {"x-queue-type": "classic", "x-overflow": "reject-publish"},
        {"x-queue-version": 2, **_RPC_LIMITS},
    )


_RPC_LIMITS: Final[Arguments] = {"x-max-length": RPC_QUEUE_LENGTH_MAX, "x-message-ttl": RPC_QUEUE_TTL_MS}
_QUORUM_RPC_ARGUMENTS: Final[Arguments] = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
_QUORUM_LIMITS: Final[Arguments] = {LEADER_LOCATOR: "balanced"}
_QUORUM_RPC_LIMITS: Final[Arguments] = {**_QUORUM_LIMITS, "x-delivery-limit": DELIVERY_LIMIT, **_RPC_LIMITS}


TOPOLOGY: Final = Topology(
    exchanges=(
        Exchange(names.UNROUTABLE_EXCHANGE, "fanout"),
        Exchange(names.EVENTS_EXCHANGE, "topic", {"alternate-exchange": names.UNROUTABLE_EXCHANGE}),
        Exchange(names.RPC_EXCHANGE, "topic"),
        Exchange(names.DEAD_LETTER_EXCHANGE, "topic"),
        # The worker publishes to the second what the first returns. An alternate exchange would do the same, but an
        # exchange that is there already cannot be given one.
        Exchange(names.ALERTS_EXCHANGE, "topic"),
        Exchange(names.UNROUTABLE_ALERTS_EXCHANGE, "fanout"),
    ),
    # In an order in which nothing that is dead-lettered or unroutable finds its queue missing.
    queues=(
        _dead_letter_queue(names.UNROUTABLE_QUEUE, names.UNROUTABLE_EXCHANGE, ""),
        *(
            _dead_letter_queue(names.dead_letter_queue(event_type), names.DEAD_LETTER_EXCHANGE, event_type)
            for event_type in EVENTS
        ),
        *(_event_queue(event_type) for event_type in EVENTS),
        *(_parked_queue(event_type) for event_type in EVENTS),
        _alerts_queue(),
        *(_rpc_queue(operation.name) for operation in OPERATIONS),
    ),
    former_bindings=(Binding(names.ALERTS_QUEUE, names.ALERTS_EXCHANGE, "#"),),
)
