"""Compares two JSON schemas of one message: whether those who know the earlier one can go on with the later one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

Schema = dict[str, Any]

UPPER_BOUNDS: Final = ("maxLength", "maxItems", "maximum")
LOWER_BOUNDS: Final = ("minLength", "minItems", "minimum")
KNOWN: Final = {
    *("type", "enum", "const", "format", "pattern", "properties", "required", "items", "anyOf", "oneOf"),
    *("$ref", "$defs", "$schema", "$id", "title", "description", "default", *UPPER_BOUNDS, *LOWER_BOUNDS),
}
"""The keywords that are compared, and those that refuse nothing. Another one is an error, lest it be missed."""

IS_GONE: Final = ": is gone"
MAY_BE_ABSENT: Final = ": may be absent"


@dataclass(frozen=True, slots=True)
class Place:
    """A schema, and the document that its references lead into."""

    schema: Schema
    document: Schema

    def at(self, schema: Schema) -> "Place":
        """Another schema of the document, itself where it is a reference. Raises ValueError for an unknown keyword."""
        while "$ref" in schema:
            schema = self.document["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        if unknown := set(schema) - KNOWN:
            raise ValueError(f"cannot compare {', '.join(sorted(unknown))}")
        return Place(schema, self.document)

    def choices(self) -> "list[Place]":
        """The schemas of which a value fits one."""
        alternatives = self.schema.get("anyOf") or self.schema.get("oneOf")
        if alternatives is None:
            return [self]
        return [choice for each in alternatives for choice in self.at(each).choices()]

    @property
    def properties(self) -> Schema:
        """The fields of an object."""
        properties: Schema = self.schema.get("properties", {})
        return properties

    @property
    def values(self) -> list[Any] | None:
        """The only values that there are; None if they are not listed."""
        if "const" in self.schema:
            return [self.schema["const"]]
        values: list[Any] | None = self.schema.get("enum")
        return values


def breaks(earlier: Schema, later: Schema, *, comes_in: bool) -> list[str]:
    """What those who know the earlier schema cannot go on with, each with the path of its field.

    A message that comes in to the service must still be taken, so the later schema allows all that the earlier one
    does. In one that goes out they must still find what they know, so it is the other way round. Unknown fields are
    ignored on both sides, so a field more is no break; a field less is one.
    """
    before, after = (Place({}, document).at(document) for document in (earlier, later))
    narrow = narrowings(before, after, "") if comes_in else narrowings(after, before, "")
    lost = set(losses(before, after, ""))
    absent_anyway = {each.replace(IS_GONE, MAY_BE_ABSENT) for each in lost}
    return sorted({*narrow} - absent_anyway | lost | {*(defaults(before, after, "") if comes_in else ())})


def narrowings(wide: Place, narrow: Place, path: str) -> Iterator[str]:
    """Why a value that fits `wide` may not fit `narrow`."""
    choices = narrow.choices()
    for each in wide.choices():
        reasons = [list(_single_narrowings(each, choice, path)) for choice in choices]
        yield from min(reasons, key=len)


def _single_narrowings(wide: Place, narrow: Place, path: str) -> Iterator[str]:
    """The same for schemas without alternatives."""
    a, b = wide.schema, narrow.schema
    if "type" in b and a.get("type") != b["type"]:
        yield f"{path}: may be {a.get('type', 'anything')}, not only {b['type']}"
        return
    if narrow.values is not None:
        more = ["another value"] if wide.values is None else [each for each in wide.values if each not in narrow.values]
        yield from (f"{path}: may be {each}" for each in more)
    for keyword in ("pattern", "format"):
        if keyword in b and a.get(keyword) != b[keyword]:
            yield f"{path}: has another {keyword}"
    for keyword in UPPER_BOUNDS:
        if keyword in b and a.get(keyword, float("inf")) > b[keyword]:
            yield f"{path}: has another {keyword}"
    for keyword in LOWER_BOUNDS:
        if keyword in b and a.get(keyword, float("-inf")) < b[keyword]:
            yield f"{path}: has another {keyword}"
    for name in b.get("required", []):
        if name not in a.get("required", []):
            yield f"{path}.{name}{MAY_BE_ABSENT}"
    for name in [each for each in wide.properties if each in narrow.properties]:
        yield from narrowings(wide.at(wide.properties[name]), narrow.at(narrow.properties[name]), f"{path}.{name}")
    if "items" in a and "items" in b:
        yield from narrowings(wide.at(a["items"]), narrow.at(b["items"]), f"{path}[]")


def losses(before: Place, after: Place, path: str) -> Iterator[str]:
    """The fields that there were, and that are not there any more."""
    objects = [choice for choice in after.choices() if choice.schema.get("type") == before.schema.get("type")]
    if before.choices() != [before]:
        for choice in before.choices():
            yield from losses(choice, after, path)
    elif objects:
        yield from min((list(_single_losses(before, each, path)) for each in objects), key=len)


def _single_losses(before: Place, after: Place, path: str) -> Iterator[str]:
    for name, schema in before.properties.items():
        if name not in after.properties:
            yield f"{path}.{name}{IS_GONE}"
        else:
            yield from losses(before.at(schema), after.at(after.properties[name]), f"{path}.{name}")
    if "items" in before.schema and "items" in after.schema:
        yield from losses(before.at(before.schema["items"]), after.at(after.schema["items"]), f"{path}[]")


def defaults(before: Place, after: Place, path: str) -> Iterator[str]:
    """The fields that mean something else where they are absent."""
    for name, schema in before.properties.items():
        if (
            "default" in schema
            and name in after.properties
            and schema["default"] != after.properties[name].get("default")
        ):
            yield f"{path}.{name}: has another default"
