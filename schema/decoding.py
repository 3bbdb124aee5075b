"""From the bytes of a body to a model, or to errors that name the field."""

import re
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from . import fields, limits
from .errors import FieldError
from .fields import WireModel

Model = TypeVar("Model", bound=WireModel)

_WHOLE_BODY = "body"

_PATTERN_MESSAGES = {
    fields.NAME_PATTERN: "must not be blank or hold control characters",
    fields.PROSE_PATTERN: "must not be blank or hold control characters other than tabs and line ends",
    fields.NO_NUL_PATTERN: "must not hold NUL",
}


class InvalidBody(ValueError):
    """A body that the contract does not allow. `details` names what is wrong, field by field."""

    def __init__(self, *details: FieldError) -> None:
        super().__init__("; ".join(f"{detail.field}: {detail.message}" for detail in details))
        self.details = details


def decode(model: type[Model], body: bytes) -> Model:
    """Parse and validate one body; the result's `payload` is its text. Raises InvalidBody.

    Only what RFC 8259 calls JSON is taken: no NaN, no Infinity, no lone surrogates, UTF-8 only.
    """
    if len(body) > limits.BODY_BYTES_MAX:
        raise _invalid(f"is {len(body):,} bytes long, at most {limits.BODY_BYTES_MAX:,} are allowed")
    if not body:
        raise _invalid("is empty")
    try:
        payload = body.decode()
        decoded = model.model_validate_json(body, by_alias=True, by_name=False)
        if b"NaN" in body or b"Infinity" in body:
            # pydantic lets these pass in fields it ignores; PostgreSQL and the RFC do not.
            from_json(body, allow_inf_nan=False)
    except ValidationError as error:
        raise InvalidBody(*_field_errors(error)) from None
    except ValueError as error:
        raise _invalid(f"is not JSON: {error}") from None
    decoded.with_payload(payload)
    return decoded


def _invalid(message: str) -> InvalidBody:
    return InvalidBody(FieldError(field=_WHOLE_BODY, message=message))


def _field_errors(error: ValidationError) -> list[FieldError]:
    found = error.errors(include_url=False, include_input=False)
    return [
        FieldError(field=".".join(map(str, detail["loc"])) or _WHOLE_BODY, message=_message(detail))
        for detail in found[: limits.ERROR_DETAILS_MAX]
    ]


def _message(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "string_pattern_mismatch":
            return _PATTERN_MESSAGES[context["pattern"]]
        case "value_error":
            return str(context["error"])
        case "literal_error":
            # pydantic quotes the members of an enum as Python, with their values in quotation marks.
            return "must be one of " + ", ".join(re.findall("'[^']*'", context["expected"]))
        case "json_invalid":
            return f"is not JSON: {context['error']}"
        case _:
            return detail["msg"]
