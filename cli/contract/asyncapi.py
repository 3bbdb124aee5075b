"""The contract as an AsyncAPI document: what the service receives and sends, from the service's side."""

from collections.abc import Iterable
from typing import Any, Final

from cli.contract.json_schemas import (
    ERROR_REPLY,
    dead_letter_headers,
    description,
    reply_name,
    request_name,
    schemas_by_reference,
)
from cli.contract.pages import Example
from schema import limits, names
from schema.alerts import DOUBLE_EXPORT_DETECTED, DoubleExportDetected
from schema.events import EVENTS
from schema.operations import OPERATIONS
from worker.broker.topology import RPC_QUEUE_TTL_MS, TOPOLOGY

ASYNCAPI_VERSION: Final = "3.0.0"
AMQP_BINDING_VERSION: Final = "0.3.0"

REPLIES: Final = "replies"

PERSISTENT: Final = 2
TRANSIENT: Final = 1

DESCRIPTION: Final = (
    "The memory of every accounting export an organisation has run. Exporters publish events, the Double-Export Guard "
    "and the history panel send requests, the service replies and publishes alerts, all over RabbitMQ.\n\n"
    "`receive` and `send` are the service's: a client sends what the service receives. Properties of AMQP stand among "
    "the headers, under their names in camelCase: `replyTo` is the property `reply_to`.\n\n"
    "docs/CONTRACT.md says in words what each message means and what is promised. Unknown fields are ignored."
)

TRACE_HEADERS: Final = {
    names.TRACEPARENT_HEADER: {
        "type": "string",
        "description": "The trace that the message belongs to, as W3C Trace Context defines it.",
        "examples": ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    },
    names.TRACESTATE_HEADER: {"type": "string", "description": "What tracing systems have added to that."},
}

HEADERS: Final = {
    "EventHeaders": {
        "type": "object",
        "properties": {
            "messageId": {"type": "string", "description": "The property `message_id`. Each attempt has its own."},
            "type": {"type": "string", "description": "The property `type`: the event type, as in the routing key."},
            "org-id": {"type": "string", "description": "The `orgId` of the body."},
            **TRACE_HEADERS,
        },
    },
    "RequestHeaders": {
        "type": "object",
        "required": ["replyTo", "correlationId"],
        "properties": {
            "replyTo": {
                "type": "string",
                "description": "The property `reply_to`: where the reply goes.",
                "examples": [names.DIRECT_REPLY_TO],
            },
            "correlationId": {
                "type": "string",
                "description": "The property `correlation_id`. The reply has the same.",
            },
            "messageId": {"type": "string", "description": "The property `message_id`."},
            "expiration": {
                "type": "string",
                "description": "The property `expiration`: the deadline of the caller, in milliseconds.",
                "examples": ["5000"],
            },
            names.TIMESTAMP_HEADER: {
                "type": "integer",
                "description": "When the request was published, in milliseconds since 1970. The deadline begins then.",
            },
            **TRACE_HEADERS,
        },
    },
    "ReplyHeaders": {
        "type": "object",
        "required": ["correlationId"],
        "properties": {
            "correlationId": {"type": "string", "description": "The property `correlation_id`."},
            **TRACE_HEADERS,
        },
    },
    "AlertHeaders": {
        "type": "object",
        "properties": {"type": {"type": "string", "const": DOUBLE_EXPORT_DETECTED}, **TRACE_HEADERS},
    },
}
"""The headers and properties of the messages, as schemas."""

Object = dict[str, Any]


def asyncapi_document(version: str, examples: Iterable[Example]) -> Object:
    """The document for a version of the service, with the examples of the contract's page."""
    messages, schemas = _messages(list(examples))
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "id": "urn:export-runs",
        "info": {"title": "Export Run Repository", "version": version, "description": DESCRIPTION},
        "defaultContentType": names.CONTENT_TYPE,
        "servers": {
            "broker": {
                "host": "{host}:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "RabbitMQ.",
                "variables": {"host": {"default": "localhost", "description": "Where RabbitMQ listens."}},
            }
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": messages,
            "schemas": schemas,
            "correlationIds": {"correlationId": {"location": "$message.header#/correlationId"}},
        },
    }


def dead_letter_name(event_type: str) -> str:
    """The name of the message and of the channel of an event that could not be processed."""
    return f"{event_type}.dead"


def _channels() -> Object:
    channels = {event_type: _routed(names.EVENTS_EXCHANGE, event_type, [event_type]) for event_type in EVENTS}
    for operation in OPERATIONS:
        request = request_name(operation.name)
        channels[operation.name] = _routed(names.RPC_EXCHANGE, operation.name, [request])
    reply_messages = [*(reply_name(operation.name) for operation in OPERATIONS), ERROR_REPLY]
    channels[REPLIES] = {
        "address": None,
        "description": "The queue that the request names in `reply_to`.",
        "messages": _references("#/components/messages/", reply_messages),
        "bindings": _amqp({"is": "routingKey", "exchange": {"name": "", "type": "default"}}),
    }
    channels[DOUBLE_EXPORT_DETECTED] = _routed(names.ALERTS_EXCHANGE, DOUBLE_EXPORT_DETECTED, [DOUBLE_EXPORT_DETECTED])
    for event_type in EVENTS:
        queue = {"name": names.dead_letter_queue(event_type), "durable": True, "exclusive": False, "autoDelete": False}
        channels[dead_letter_name(event_type)] = {
            "address": names.dead_letter_queue(event_type),
            "description": f"The events `{event_type}` that could not be read, stored or trusted.",
            "messages": _references("#/components/messages/", [dead_letter_name(event_type)]),
            "bindings": _amqp({"is": "queue", "queue": queue}),
        }
    return channels


def _routed(exchange_name: str, routing_key: str, messages: list[str]) -> Object:
    """A channel that is one routing key of one exchange."""
    [exchange] = [each for each in TOPOLOGY.exchanges if each.name == exchange_name]
    binding = {"name": exchange.name, "type": exchange.type, "durable": True, "autoDelete": False}
    return {
        "address": routing_key,
        "messages": _references("#/components/messages/", messages),
        "bindings": _amqp({"is": "routingKey", "exchange": binding}),
    }


def _operations() -> Object:
    operations: Object = {
        event_type: {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{event_type}"},
            "summary": _first_sentence(event),
            "messages": _of_channel(event_type, [event_type]),
            "tags": [{"name": "events"}],
            "bindings": _amqp({"deliveryMode": PERSISTENT, "mandatory": True, "ack": True}),
        }
        for event_type, event in EVENTS.items()
    }
    for operation in OPERATIONS:
        too_large = f"A result of more than {limits.REPLY_BYTES_MAX:,} bytes is refused: {operation.when_too_large}."
        operations[operation.name] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{operation.name}"},
            "summary": _first_sentence(operation.request),
            "description": f"{description(operation.request.__doc__ or '')}\n\n{too_large}",
            "messages": _of_channel(operation.name, [request_name(operation.name)]),
            "tags": [{"name": "requests"}],
            "bindings": _amqp({"expiration": RPC_QUEUE_TTL_MS, "deliveryMode": TRANSIENT, "mandatory": True}),
            "reply": {
                "address": {"location": "$message.header#/replyTo", "description": "The property `reply_to`."},
                "channel": {"$ref": f"#/channels/{REPLIES}"},
                "messages": _of_channel(REPLIES, [reply_name(operation.name), ERROR_REPLY]),
            },
        }
    operations[DOUBLE_EXPORT_DETECTED] = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{DOUBLE_EXPORT_DETECTED}"},
        "summary": _first_sentence(DoubleExportDetected),
        "description": "Subscribers bind a queue of their own. "
        f"What no queue is bound for waits in the queue `{names.ALERTS_QUEUE}`.",
        "messages": _of_channel(DOUBLE_EXPORT_DETECTED, [DOUBLE_EXPORT_DETECTED]),
        "tags": [{"name": "alerts"}],
        "bindings": _amqp({"deliveryMode": PERSISTENT, "mandatory": True}),
    }
    for event_type in EVENTS:
        name = dead_letter_name(event_type)
        operations[name] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"A {event_type} could not be processed; its headers say why.",
            "messages": _of_channel(name, [name]),
            "tags": [{"name": "dead letters"}],
            "bindings": _amqp({"deliveryMode": PERSISTENT}),
        }
    return operations


def _messages(examples: list[Example]) -> tuple[Object, Object]:
    """The messages, and the schemas that they refer to."""
    payloads, schemas = schemas_by_reference("#/components/schemas/")
    schemas |= HEADERS | {"DeadLetterHeaders": dead_letter_headers()}
    messages: Object = {}

    def add(name: str, headers: str, kind: str, of: str, **more: Any) -> None:
        shown = [{"payload": each.value} for each in examples if each.kind == kind and of in ("", each.name)]
        messages[name] = {
            "name": name,
            "headers": {"$ref": f"#/components/schemas/{headers}"},
            "payload": payloads[name],
            "contentType": names.CONTENT_TYPE,
            **more,
            **({"examples": shown} if shown else {}),
        }

    correlation = {"correlationId": {"$ref": "#/components/correlationIds/correlationId"}}
    for event_type in EVENTS:
        add(event_type, "EventHeaders", "event", event_type, bindings=_amqp({"messageType": event_type}))
        messages[dead_letter_name(event_type)] = {
            "name": dead_letter_name(event_type),
            "description": "The body is what was published, unchanged: it may be anything.",
            "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"},
            "examples": [
                {"headers": each.value}
                for each in examples
                if each.kind == "headers" and each.value[names.ORIGINAL_QUEUE_HEADER] == names.event_queue(event_type)
            ],
        }
    for operation in OPERATIONS:
        add(request_name(operation.name), "RequestHeaders", "request", operation.name, **correlation)
        add(reply_name(operation.name), "ReplyHeaders", "reply", operation.name, **correlation)
    add(ERROR_REPLY, "ReplyHeaders", "error", "", **correlation)
    alert_binding = _amqp({"messageType": DOUBLE_EXPORT_DETECTED})
    add(DOUBLE_EXPORT_DETECTED, "AlertHeaders", "alert", DOUBLE_EXPORT_DETECTED, bindings=alert_binding)
    return messages, schemas


def _first_sentence(model: type) -> str:
    """Of a docstring, as plain text: a summary has no marks."""
    sentence = description(model.__doc__ or "").split("\n\n")[0].split(". ")[0]
    return sentence.replace("`", "").rstrip(".") + "."


def _amqp(binding: Object) -> Object:
    return {"amqp": {**binding, "bindingVersion": AMQP_BINDING_VERSION}}


def _references(prefix: str, keys: list[str]) -> Object:
    return {key: {"$ref": prefix + key} for key in keys}


def _of_channel(channel: str, messages: list[str]) -> list[Object]:
    return list(_references(f"#/channels/{channel}/messages/", messages).values())
