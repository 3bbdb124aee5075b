"""Why a handler refuses a message. Everything else that a handler raises is PostgreSQL's error or a bug."""

from typing import Any

from schema.errors import DeadLetterCode, ErrorCode, FieldError
from schema.limits import REPLY_BYTES_MAX
from schema.operations import Operation


class EventRefused(Exception):
    """An event contradicts what is stored, or another event of its batch; nothing of the batch was stored."""

    def __init__(self, code: DeadLetterCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class RequestRefused(Exception):
    """A request that cannot be granted; nothing was stored."""

    def __init__(self, code: ErrorCode, message: str, *details: FieldError) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


def invalid(field: str, message: str) -> RequestRefused:
    """INVALID_REQUEST: a field, by its name on the wire, holds what no request may hold."""
    return RequestRefused(
        ErrorCode.INVALID_REQUEST, "the request is not valid", FieldError(field=field, message=message)
    )


def conflict(field: str, message: str) -> RequestRefused:
    """CONFLICT: a field, by its name on the wire, contradicts what is stored."""
    return RequestRefused(
        ErrorCode.CONFLICT, "the request contradicts what is stored", FieldError(field=field, message=message)
    )


def result_too_large(operation: Operation[Any, Any]) -> RequestRefused:
    """RESULT_TOO_LARGE: the result does not fit into a reply; the message says what to ask instead."""
    return RequestRefused(
        ErrorCode.RESULT_TOO_LARGE,
        f"the result has more than {REPLY_BYTES_MAX:,} bytes: {operation.when_too_large}",
    )


def run_not_found() -> RequestRefused:
    """RUN_NOT_FOUND: there is no such run, or the caller may not know of it."""
    return RequestRefused(ErrorCode.RUN_NOT_FOUND, "there is no such run")
