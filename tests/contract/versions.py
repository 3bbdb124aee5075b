"""What is kept of each released version: the schemas of its messages, and messages that were sent and received."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cli.contract.json_schemas import ERROR_REPLY, reply_name, request_name
from schema.events import EVENTS

FOLDER: Final = Path(__file__).parent
SCHEMAS: Final = "schemas.json"
MESSAGES: Final = "messages.jsonl"

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was recorded: its kind, its event type or operation, and its body.

    The kinds are `event`, `request`, `refused` (a request that is not valid), `reply` and `alert`.
    """

    kind: str
    name: str
    body: Any

    @property
    def schema(self) -> str:
        """The name of its schema."""
        match self.kind:
            case "request" | "refused":
                return request_name(self.name)
            case "reply":
                return reply_name(self.name) if self.body["ok"] else ERROR_REPLY
            case _:
                return self.name

    def line(self) -> str:
        """It in a file."""
        return json.dumps({"kind": self.kind, "name": self.name, "body": self.body})


@dataclass(frozen=True, slots=True)
class Version:
    """A released version."""

    name: str
    schemas: dict[str, Schema]
    messages: list[Message]


def versions() -> list[Version]:
    """All of them, in the order of their names."""
    return [
        Version(
            folder.name,
            json.loads((folder / SCHEMAS).read_text("utf-8")),
            [Message(**json.loads(line)) for line in (folder / MESSAGES).read_text("utf-8").splitlines()],
        )
        for folder in sorted(path.parent for path in FOLDER.glob(f"*/{SCHEMAS}"))
    ]


def write_version(name: str, schemas: dict[str, Schema], messages: list[Message]) -> None:
    """Keep a version: one schema and one message per line."""
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    lines = (f"{json.dumps(schema_name)}: {json.dumps(schema)}" for schema_name, schema in sorted(schemas.items()))
    (folder / SCHEMAS).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    (folder / MESSAGES).write_text("".join(f"{message.line()}\n" for message in messages), encoding="utf-8")


def comes_in(schema: str) -> bool:
    """Whether a message with this schema is sent to the service."""
    return schema in EVENTS or schema.endswith(request_name(""))
