"""Names on the broker, the same for publishers, clients and the worker (DESIGN section 2)."""

from typing import Final

EVENTS_EXCHANGE: Final = "export-runs.events"
RPC_EXCHANGE: Final = "export-runs.rpc"
DEAD_LETTER_EXCHANGE: Final = "export-runs.dead-letter"
UNROUTABLE_EXCHANGE: Final = "export-runs.unroutable"
UNROUTABLE_QUEUE: Final = "export-runs.unroutable"
ALERTS_EXCHANGE: Final = "export-runs.alerts"
ALERTS_QUEUE: Final = "export-runs.alerts"

CONTENT_TYPE: Final = "application/json"

DIRECT_REPLY_TO: Final = "amq.rabbitmq.reply-to"
"""What a client puts into `reply_to`; the broker hands the worker `amq.rabbitmq.reply-to.<token>`."""

DIRECT_REPLY_PREFIX: Final = DIRECT_REPLY_TO + "."
SERVER_NAMED_PREFIX: Final = "amq.gen-"

ERROR_CODE_HEADER: Final = "x-error-code"
ERROR_DETAIL_HEADER: Final = "x-error-detail"
FAILED_AT_HEADER: Final = "x-failed-at"
ORIGINAL_QUEUE_HEADER: Final = "x-original-queue"


def event_queue(event_type: str) -> str:
    """The queue that holds events of one type, for example `export-runs.run-created`."""
    return f"export-runs.{event_type}"


def dead_letter_queue(event_type: str) -> str:
    """The queue that holds the events of one type which could not be processed."""
    return f"{event_queue(event_type)}.dead"


def rpc_queue(operation: str) -> str:
    """The queue that holds the requests of one operation."""
    return f"export-runs.rpc.{operation}"
