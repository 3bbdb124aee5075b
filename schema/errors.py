"""What can go wrong, as the contract names it (DESIGN sections 2 and 4)."""

from enum import StrEnum

from .fields import WireModel


class ErrorCode(StrEnum):
    """The code of an error reply."""

    INVALID_REQUEST = "INVALID_REQUEST"
    RUN_NOT_FOUND = "RUN_NOT_FOUND"
    DOUBLE_EXPORT_NOT_FOUND = "DOUBLE_EXPORT_NOT_FOUND"
    CONFLICT = "CONFLICT"
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
    """The property `type` contradicts the queue that the event was routed to."""

    EVENT_ID_REUSED = "EVENT_ID_REUSED"
    """Another payload is stored under the same `eventId`."""

    RUN_OF_OTHER_ORGANISATION = "RUN_OF_OTHER_ORGANISATION"
    """The `runId` belongs to another organisation."""

    UNSTORABLE = "UNSTORABLE"
    """PostgreSQL refused the values."""


class FieldError(WireModel):
    """One thing that is wrong: the field, by its path on the wire (`claimIds.3`), and what is wrong."""

    field: str
    message: str
