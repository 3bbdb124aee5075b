"""Reads the fenced blocks of a page, and the examples of the contract among them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from schema.errors import ErrorCode

FENCE: Final = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block of code in a page."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code: the words after the opening fence, its text, and its line in the page."""

    info: tuple[str, ...]
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Example:
    """A body that the contract shows: the kind of its message, the event type or operation, and the JSON.

    The kinds are `event`, `request`, `reply`, `error` (a reply without a result), `alert`, and `headers` (of a dead
    letter).
    """

    kind: str
    name: str
    value: Any


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for match in FENCE.finditer(page):
        yield Block(tuple(match["info"].split()), match["text"], page.count("\n", 0, match.start()) + 1)


def valid_examples(page: str) -> Iterator[Example]:
    """The JSON blocks of docs/CONTRACT.md, in order, without the events and requests that are refused as not valid.

    Each of them says after its fence what it is: `json request check-claims`. Raises ValueError for what is no JSON.
    """
    request: Example | None = None
    for block in blocks(page):
        if block.info[:1] != ("json",):
            continue
        kind, *names = block.info[1:]
        example = Example(kind, names[0] if names else "", json.loads(block.text))
        match kind:
            case "request":
                request = example
            case "reply":
                error = example.value.get("error")
                if request is not None and (error is None or error["code"] != ErrorCode.INVALID_REQUEST):
                    yield request
                yield example if error is None else Example("error", example.name, example.value)
            case "refused":
                pass
            case _:
                yield example
