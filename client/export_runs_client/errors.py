"""What can go wrong. Whatever is raised, nobody has said that a claim may be exported."""

from typing import Final

from .schema.errors import ErrorCode
from .schema.replies import ErrorBody


class ExportRunsError(Exception):
    """The base of everything that this package raises about the service. After it, do not export."""


class NoAnswer(ExportRunsError):
    """Nobody knows. It never means "unexported", and a write may have been stored: repeat it."""


class ConnectionLost(NoAnswer):
    """The connection to RabbitMQ was lost while a request was on its way, or an event was not confirmed."""


class MessageRefused(NoAnswer):
    """RabbitMQ did not take a message: its queue is full, or has no leader for a moment."""


class AccessRefused(NoAnswer):
    """RabbitMQ refuses the user, the password or the virtual host of each URL. Nothing was sent."""


class LeaseLost(ExportRunsError):
    """The lease of an export can no longer be trusted: pay nothing more. What is out is reported all the same."""


class RequestFailed(ExportRunsError):
    """The service answered with an error. `error` has its code, message and details."""

    def __init__(self, operation: str, error: ErrorBody) -> None:
        details = "".join(f"; {detail.field}: {detail.message}" for detail in error.details)
        super().__init__(f"{operation}: {error.code}: {error.message}{details}")
        self.operation = operation
        self.error = error

    def __reduce__(self) -> tuple[type["RequestFailed"], tuple[str, ErrorBody]]:
        """How it is pickled: task queues send exceptions to other processes."""
        return type(self), (self.operation, self.error)


class InvalidRequest(RequestFailed):
    """`INVALID_REQUEST`: `error.details` names the fields. Most are found before anything is sent."""


class RunNotFound(RequestFailed):
    """`RUN_NOT_FOUND`: there is no such run, or none of this organisation."""


class DoubleExportNotFound(RequestFailed):
    """`DOUBLE_EXPORT_NOT_FOUND`: the claim of this organisation is no double export."""


class Conflict(RequestFailed):
    """`CONFLICT`: the request contradicts what is stored. Nothing was changed."""


class ResultTooLarge(RequestFailed):
    """`RESULT_TOO_LARGE`: the message says what to ask instead."""


class OrganisationNotAllowed(RequestFailed):
    """`ORGANISATION_NOT_ALLOWED`: this user may not ask for this organisation; `error.details` says why."""


class Unavailable(RequestFailed):
    """`UNAVAILABLE`: the service cannot answer now. A write may have been stored: repeat it."""


class InternalError(RequestFailed):
    """`INTERNAL`: a bug in the service, logged there."""


ERRORS: Final[dict[ErrorCode, type[RequestFailed]]] = {
    ErrorCode.INVALID_REQUEST: InvalidRequest,
    ErrorCode.RUN_NOT_FOUND: RunNotFound,
    ErrorCode.DOUBLE_EXPORT_NOT_FOUND: DoubleExportNotFound,
    ErrorCode.CONFLICT: Conflict,
    ErrorCode.RESULT_TOO_LARGE: ResultTooLarge,
    ErrorCode.ORGANISATION_NOT_ALLOWED: OrganisationNotAllowed,
    ErrorCode.UNAVAILABLE: Unavailable,
    ErrorCode.INTERNAL: InternalError,
}
"""The exception of each error code."""

assert set(ERRORS) == set(ErrorCode)
