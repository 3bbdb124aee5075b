"""What can go wrong, as docs/CONTRACT.md names it."""

from enum import StrEnum

from .fields import WireModel


class ErrorCode(StrEnum):
    """The code of an error reply."""

    INVALID_REQUEST = "INVALID_REQUEST"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    DOUBLE_EXPORT_NOT_FOUND = "DOUBLE_EXPORT_NOT_FOUND"
    CONFLICT = "CONFLICT"
    RESULT_TOO_LARGE = "RESULT_TOO_LARGE"
    ORGANISATION_NOT_ALLOWED = "ORGANISATION_NOT_ALLOWED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self is ErrorCode.UNAVAILABLE


class DeadLetterCode(StrEnum):
    """The `x-error-code` of a dead-lettered event."""

    INVALID_EVENT = "INVALID_EVENT"
    """The body cannot be parsed or validated."""

    TYPE_MISMATCH = "TYPE_MISMATCH"
    """The message property `type` contradicts the queue that the event was routed to."""

    EVENT_ID_REUSED = "EVENT_ID_REUSED"
    """Another event is stored under the same `eventId`."""

    RUN_OF_OTHER_ORGANISATION = "RUN_OF_OTHER_ORGANISATION"
    """The `runId` belongs to another organisation."""

    ORGANISATION_NOT_ALLOWED = "ORGANISATION_NOT_ALLOWED"
    """Its publisher may not write for the organisation, or RabbitMQ does not know who published it."""

    RUN_PURGED = "RUN_PURGED"
    """An operator removed the run for good. When that was a mistake, `export-runs unpurge` brings it back."""

    UNSTORABLE = "UNSTORABLE"
    """PostgreSQL refused the values, or ended the connection each time."""

    STORE_TIMED_OUT = "STORE_TIMED_OUT"
    """PostgreSQL could not store it for long, while it stored others: it met a lock, or was too slow."""


class FieldError(WireModel):
    """One thing that is wrong: the field, by its path on the wire (`claimIds.3`), and what is wrong."""

    field: str
    message: str
