"""Turns the bytes of a body into a model, or into errors that name the field."""

import re
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from . import fields, limits
from .errors import FieldError
from .fields import WireModel

Model = TypeVar("Model", bound=WireModel)

GZIP_START = b"\x1f\x8b"
"""The first bytes of everything that gzip has compressed."""

_WHOLE_BODY = "body"

_PATTERN_MESSAGES = {
    fields.NAME_PATTERN: "must not be blank or hold control characters",
    fields.CLAIM_ID_PATTERN: "must not be blank or hold control characters",
    fields.PROSE_PATTERN: "must not be blank or hold control characters other than tabs and line ends",
    fields.NO_NUL_PATTERN: "must not hold NUL",
}


class InvalidBody(ValueError):
    """The contract does not allow the body. `details` says what is wrong, field by field."""

    def __init__(self, *details: FieldError) -> None:
        super().__init__("; ".join(f"{detail.field}: {detail.message}" for detail in details))
        self.details = details


def decode(model: type[Model], body: bytes) -> Model:
    """Parse and validate one body; the `payload` of the result is the body's text. Raises InvalidBody.

    The body must be JSON as RFC 8259 defines it: no NaN, no Infinity, no lone surrogates, UTF-8 only.
    """
    check_body_size(len(body))
    return parse(model, body)


def parse(model: type[Model], body: bytes) -> Model:
    """The same for what may be larger than a body: what the service has logged of its own."""
    if not body:
        raise _invalid("is empty")
    try:
        payload = body.decode()
        decoded = model.model_validate_json(body, by_alias=True, by_name=False)
        if b"NaN" in body or b"Infinity" in body:
            # pydantic lets these pass in fields that it ignores. PostgreSQL and the RFC do not.
            from_json(body, allow_inf_nan=False)
    except ValidationError as error:
        raise InvalidBody(*_field_errors(error)) from None
    except ValueError as error:
        if body.startswith(GZIP_START):
            raise _invalid("is compressed with gzip, and must be plain JSON") from None
        raise _invalid(f"is not JSON: {error}") from None
    decoded.with_payload(payload)
    return decoded


def check_body_size(size_bytes: int) -> None:
    """Raises InvalidBody for a body of so many bytes, if the contract allows no body of that size."""
    if size_bytes > limits.BODY_BYTES_MAX:
        raise _invalid(f"is {size_bytes:,} bytes long, at most {limits.BODY_BYTES_MAX:,} are allowed")


def _invalid(message: str) -> InvalidBody:
    return InvalidBody(FieldError(field=_WHOLE_BODY, message=message))


def _field_errors(error: ValidationError) -> list[FieldError]:
    details = error.errors(include_url=False, include_input=False)
    named = [
        FieldError(field=".".join(map(str, detail["loc"])) or _WHOLE_BODY, message=_message(detail))
        for detail in details[: limits.ERROR_DETAILS_MAX]
    ]
    if len(details) > len(named):
        others = len(details) - len(named)
        named.append(FieldError(field=_WHOLE_BODY, message=f"has {others:,} more fields that are wrong"))
    return named


def _message(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "string_pattern_mismatch":
            return _PATTERN_MESSAGES[context["pattern"]]
        case "value_error":
            return str(context["error"])
        case "literal_error":
            # pydantic writes the members of an enum as Python does, with their values in quotation marks.
            return "must be one of " + ", ".join(re.findall("'[^']*'", context["expected"]))
        case "json_invalid":
            return f"is not JSON: {context['error']}"
        case _:
            return detail["msg"]
