"""Whether two bodies are the same event: they are compared by their meaning, and not by how it is written.

Times count as instants, UUIDs and claim ids in their canonical form, claims in any order, and null, false or an empty
list as a field that is absent. A field that the contract does not know counts by its JSON value.
"""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from schema.decoding import InvalidBody, decode
from schema.fields import WireModel


class JsonNumber(NamedTuple):
    """A number in a JSON text. 1 and 1.0 are one number; true and "1" are others."""

    value: Decimal | str


def is_same_event(model: type[WireModel], one: str, other: str) -> bool:
    """Whether two bodies of events of one type are the same event.

    Bodies that this version of the contract cannot read are the same only if their JSON is.
    """
    if one == other:
        return True
    one_object, other_object = _parsed(one), _parsed(other)
    if _json_value(one_object) == _json_value(other_object):
        return True
    try:
        events = decode(model, one.encode()), decode(model, other.encode())
    except InvalidBody:
        return False
    return _meaning(events[0], one_object) == _meaning(events[1], other_object)


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_number, parse_float=_number)


def _number(text: str) -> JsonNumber:
    """As text where no Decimal is so large. Never a float: 1e200000 and 2e200000 are the same float."""
    try:
        return JsonNumber(Decimal(text))
    except InvalidOperation:
        return JsonNumber(text)


def _json_value(value: Any) -> Hashable:
    match value:
        case JsonNumber():
            return value
        case dict():
            return "object", frozenset((name, _json_value(each)) for name, each in value.items())
        case list():
            return "array", tuple(_json_value(each) for each in value)
        case _:
            return type(value), value


def _meaning(model: WireModel, json_object: Mapping[str, Any]) -> Hashable:
    """The meaning of an object of the contract, which was decoded from a JSON object."""
    known: dict[str, Hashable] = {}
    unknown = dict(json_object)
    for name, field in type(model).model_fields.items():
        alias = field.alias or name
        value, json_value = getattr(model, name), unknown.pop(alias, None)
        if value is not None and value is not False and value != []:
            known[name] = _known_value(value, json_value)
    return frozenset(known.items()), _json_value(unknown)


def _known_value(value: Any, json_value: Any) -> Hashable:
    if isinstance(value, WireModel):
        return _meaning(value, json_value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        pairs = zip(value, json_value, strict=True)
        return frozenset(Counter(_known_value(*pair) for pair in pairs).items())
    hashable: Hashable = value
    return hashable
