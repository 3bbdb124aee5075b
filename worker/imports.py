"""Publish events from a file of JSON Lines."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from schema.decoding import InvalidBody, decode
from schema.errors import FieldError
from schema.events import EVENTS
from schema.fields import WireModel

UNDER_WAY_MAX: Final = 100
"""Publishes that wait for their confirm at the same time."""

Publish = Callable[[str, bytes], Awaitable[None]]


class _Line(WireModel):
    type: str


@dataclass(slots=True)
class Import:
    """How an import went, in lines."""

    published: int = 0
    invalid: int = 0


async def publish_lines(lines: Iterable[bytes], publish: Publish | None, complain: Callable[[str], None]) -> Import:
    """Publish each line's event, or with `publish` None only validate it.

    An invalid line is named to `complain` and skipped. Raises what `publish` raises; lines before that one may
    have been published, and publishing them again does no harm.
    """
    done = Import()
    room = asyncio.Semaphore(UNDER_WAY_MAX)

    async def publish_one(event_type: str, body: bytes) -> None:
        try:
            if publish is not None:
                await publish(event_type, body)
            done.published += 1
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as publishing:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    event_type = check_line(line)
                except InvalidBody as invalid:
                    done.invalid += 1
                    complain(f"line {number}: {invalid}")
                    continue
                await room.acquire()
                publishing.create_task(publish_one(event_type, line.strip()))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return done


def check_line(line: bytes) -> str:
    """The event type of a line. Raises InvalidBody unless the line is an event of the contract."""
    event_type = decode(_Line, line).type
    if event_type not in EVENTS:
        raise InvalidBody(FieldError(field="type", message=f"must be one of {', '.join(EVENTS)}"))
    decode(EVENTS[event_type], line)
    return event_type
