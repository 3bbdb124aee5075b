"""Names on the broker, the same for publishers, clients and the worker."""

from typing import Final

EVENTS_EXCHANGE: Final = "export-runs.events"
RPC_EXCHANGE: Final = "export-runs.rpc"
DEAD_LETTER_EXCHANGE: Final = "export-runs.dead-letter"
UNROUTABLE_EXCHANGE: Final = "export-runs.unroutable"
UNROUTABLE_QUEUE: Final = "export-runs.unroutable"
ALERTS_EXCHANGE: Final = "export-runs.alerts"
ALERTS_QUEUE: Final = "export-runs.alerts"
UNROUTABLE_ALERTS_EXCHANGE: Final = "export-runs.alerts.unroutable"

CONTENT_TYPE: Final = "application/json"

DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to"
"""A client puts this into `reply_to`; RabbitMQ hands the worker `amq.rabbitmq.reply-to.<token>` instead."""

DIRECT_REPLY_PREFIX: Final = DIRECT_REPLY_TO + "."
SERVER_NAMED_PREFIX: Final = "amq.gen-"

TIMESTAMP_HEADER: Final = "timestamp_in_ms"
"""When RabbitMQ received a message, in milliseconds since 1970, if it is configured to note that
(`set_header_timestamp`). A client may set it as well, so it may be forged."""

TRACEPARENT_HEADER: Final = "traceparent"
TRACESTATE_HEADER: Final = "tracestate"
"""Which trace a message belongs to, as W3C Trace Context defines it."""

ERROR_CODE_HEADER: Final = "x-error-code"
ERROR_DETAIL_HEADER: Final = "x-error-detail"
FAILED_AT_HEADER: Final = "x-failed-at"
ORIGINAL_QUEUE_HEADER: Final = "x-original-queue"

TIMES_PARKED_HEADER: Final = "x-times-parked"
"""How often RabbitMQ has kept an event for the worker that had no room for it, after it could not be stored."""


def event_queue(event_type: str) -> str:
    """The queue that holds events of one type, for example `export-runs.run-created`."""
    return f"export-runs.{event_type}"


def dead_letter_queue(event_type: str) -> str:
    """The queue that holds the dead letters of one event type: events that could not be processed."""
    return f"{event_queue(event_type)}.dead"


def parked_queue(event_type: str) -> str:
    """The queue that holds events of one type for a while before RabbitMQ delivers them again."""
    return f"{event_queue(event_type)}.parked"


def rpc_queue(operation: str) -> str:
    """The queue that holds the requests of one operation."""
    return f"export-runs.rpc.{operation}"
