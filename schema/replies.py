"""The envelope of every reply: a result, or the reason why there is none. `ok` tells which."""

import json
from functools import cache
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import Field, TypeAdapter

from .errors import ErrorCode, FieldError
from .fields import WireModel

Result = TypeVar("Result", bound=WireModel)

OK_CODE: Final = "OK"


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


def decode_reply(result: type[Result], body: bytes) -> OkReply[Result] | ErrorReply:
    """The reply in a body, for a client. Raises pydantic's ValidationError for what is no reply with such a result."""
    reply: OkReply[Result] | ErrorReply = _reply_adapter(result).validate_json(body)
    return reply


def encode_ok_reply(result: WireModel) -> bytes:
    """The body of a reply with a result. To put the result's text into the envelope is faster than to build an
    OkReply and write that; both give the same bytes.
    """
    return b'{"ok":true,"result":%b}' % result.model_dump_json().encode()


def encode_error_reply(code: ErrorCode, message: str, *details: FieldError) -> bytes:
    """The body of a reply without a result."""
    error = ErrorBody(code=code, message=message, retryable=code.retryable, details=list(details))
    return ErrorReply(error=error).model_dump_json().encode()


def reply_code(body: bytes) -> str:
    """What a reply that this module encoded comes to: OK, or the code of its error."""
    return OK_CODE if body.startswith(b'{"ok":true') else str(json.loads(body)["error"]["code"])


@cache
def _reply_adapter(result: type[WireModel]) -> TypeAdapter[Any]:
    reply = OkReply[result] | ErrorReply  # type: ignore[valid-type]
    return TypeAdapter(Annotated[reply, Field(discriminator="ok")])
