"""The JSON schemas of the contract's bodies, in the dialects 2020-12 and AsyncAPI."""

import re
from typing import Any, Final

from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from schema import names
from schema.alerts import DOUBLE_EXPORT_DETECTED, DoubleExportDetected
from schema.errors import DeadLetterCode
from schema.events import EVENTS
from schema.fields import WireModel
from schema.operations import OPERATIONS
from schema.replies import ErrorReply, OkReply

ERROR_REPLY: Final = "error-reply"
DEAD_LETTER_HEADERS: Final = "dead-letter-headers"

Schema = dict[str, Any]

_PYTHON_NAME: Final = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")
_LINE_END: Final = re.compile(r"(?<!\n)\n(?!\n)")


def request_name(operation: str) -> str:
    """The name of the message that asks an operation."""
    return f"{operation}.request"


def reply_name(operation: str) -> str:
    """The name of the message that answers an operation with a result."""
    return f"{operation}.reply"


def bodies() -> dict[str, tuple[type[WireModel], JsonSchemaMode]]:
    """The model of each message's body, by the message's name, and whether it describes what comes in
    (`validation`) or what goes out (`serialization`).
    """
    models: dict[str, tuple[type[WireModel], JsonSchemaMode]] = {}
    for event_type, event in EVENTS.items():
        models[event_type] = (event, "validation")
    for operation in OPERATIONS:
        models[request_name(operation.name)] = (operation.request, "validation")
        reply: Any = OkReply.__class_getitem__(operation.result)
        models[reply_name(operation.name)] = (reply, "serialization")
    models[ERROR_REPLY] = (ErrorReply, "serialization")
    models[DOUBLE_EXPORT_DETECTED] = (DoubleExportDetected, "serialization")
    return models


def schema_files() -> dict[str, Schema]:
    """A schema of JSON Schema 2020-12 for the body of each message, and for the headers of a dead letter."""
    schemas = {
        name: wire_text(model.model_json_schema(mode=mode, schema_generator=ContractSchema))
        for name, (model, mode) in bodies().items()
    }
    schemas[DEAD_LETTER_HEADERS] = dead_letter_headers()
    return {
        name: {"$schema": GenerateJsonSchema.schema_dialect, "$id": f"urn:export-runs:{name}", **schema}
        for name, schema in schemas.items()
    }


def schemas_by_reference(prefix: str) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """For one document that holds all schemas: a reference to the body of each message, and what is referred to.

    A reference is `prefix` and the name of a schema.
    """
    models = bodies()
    references, definitions = models_json_schema(
        list(dict.fromkeys(models.values())), ref_template=prefix + "{model}", schema_generator=ContractSchema
    )
    return {name: references[key] for name, key in models.items()}, wire_text(definitions["$defs"])


def dead_letter_headers() -> Schema:
    """The schema of the headers that say why an event is a dead letter. It has the exporter's own headers besides."""
    properties = {
        names.ERROR_CODE_HEADER: {"type": "string", "enum": [code.value for code in DeadLetterCode]},
        names.ERROR_DETAIL_HEADER: {"type": "string", "description": "What is wrong, in words."},
        names.FAILED_AT_HEADER: {"type": "string", "format": "date-time"},
        names.ORIGINAL_QUEUE_HEADER: {"type": "string", "description": "The queue that the event came from."},
    }
    return {
        "title": "DeadLetterHeaders",
        "description": "Why an event could not be processed.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def wire_text(value: Any) -> Any:
    """A schema whose descriptions say what Python's docstrings do, with the names of the wire, and without line ends
    inside a paragraph.
    """
    if isinstance(value, list):
        return [wire_text(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: description(each) if key == "description" and isinstance(each, str) else wire_text(each)
        for key, each in value.items()
    }


def description(docstring: str) -> str:
    """A docstring as wire_text has it."""
    return _LINE_END.sub(" ", _PYTHON_NAME.sub(lambda match: f"`{to_camel(match[1])}`", docstring))


class ContractSchema(GenerateJsonSchema):
    """Leaves out what pydantic adds to a schema for a form or for OpenAPI."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A field has its name, and no title."""
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Without OpenAPI's `discriminator`: AsyncAPI has another thing of that name."""
        union = super().tagged_union_schema(schema)
        union.pop("discriminator", None)
        return union
