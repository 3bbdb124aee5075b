"""The envelope of every reply: a result, or the reason why there is none."""

from typing import Generic, Literal, TypeVar

from .errors import ErrorCode, FieldError
from .fields import WireModel

Result = TypeVar("Result", bound=WireModel)


class OkReply(WireModel, Generic[Result]):
    """A reply with a result."""

    ok: Literal[True] = True
    result: Result


class ErrorBody(WireModel):
    """The `error` of a reply. `retryable`: whether the same request may succeed later."""

    code: ErrorCode
    message: str
    retryable: bool
    details: list[FieldError]


class ErrorReply(WireModel):
    """A reply that says why there is no result."""

    ok: Literal[False] = False
    error: ErrorBody
