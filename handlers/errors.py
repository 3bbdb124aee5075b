"""Why a handler refuses a message. Everything else that it raises is PostgreSQL's or a bug."""

from schema.errors import DeadLetterCode, ErrorCode, FieldError


class EventRefused(Exception):
    """An event contradicts what is stored, or one beside it; nothing of its batch was stored."""

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


def run_not_found() -> RequestRefused:
    """No such run, or none that the caller may know of."""
    return RequestRefused(ErrorCode.RUN_NOT_FOUND, "there is no such run")
