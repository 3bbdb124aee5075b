"""Publish events from a file of JSON Lines: one event per line."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Final

from cli.console import FileRefused
from export_runs_client.schema.decoding import InvalidBody, decode
from export_runs_client.schema.errors import FieldError
from export_runs_client.schema.events import EVENTS
from export_runs_client.schema.fields import WireModel
from export_runs_client.schema.limits import BODY_BYTES_MAX

UNCONFIRMED_MAX: Final = 100
"""Messages that are published and wait for their confirm, at the same time."""

CHUNK_BYTES: Final = 64 * 1024

UTF8_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_UNREADABLE: Final = {
    b"\x1f\x8b": "the file is compressed with gzip; unpack it: gunzip -c FILE | export-runs publish -",
    b"\xff\xfe": "the file is encoded in UTF-16; it must be UTF-8",
    b"\xfe\xff": "the file is encoded in UTF-16; it must be UTF-8",
}
"""The first bytes of files of another kind, and what to say about them."""

Publish = Callable[[str, str, bytes], Awaitable[None]]
"""Publishes an event of a type and an organisation."""


class _Line(WireModel):
    type: str


@dataclass(slots=True)
class LineCounts:
    """How many lines are valid, and published if they were to be; and how many are invalid."""

    valid: int = 0
    invalid: int = 0


async def publish_lines(
    file: BinaryIO, publish: Publish | None, counts: LineCounts, report_invalid: Callable[[str], None]
) -> None:
    """Publish the event of each line as soon as it can be read; if `publish` is None, only validate it.

    An invalid line is passed to `report_invalid`, and skipped. `counts` is up to date at every moment. Raises
    FileRefused, and what `publish` raises. By then other lines may have been published; to publish them
    again does no harm.
    """
    free_slots = asyncio.Semaphore(UNCONFIRMED_MAX)

    async def publish_one(event_type: str, org_id: str, body: bytes) -> None:
        try:
            if publish is not None:
                await publish(event_type, org_id, body)
            counts.valid += 1
        finally:
            free_slots.release()

    try:
        async with asyncio.TaskGroup() as publishing:
            number = 0
            async for line in _lines(_chunks(file.fileno())):
                number += 1
                if not line.strip():
                    continue
                try:
                    event_type, org_id = check_line(line)
                except InvalidBody as invalid:
                    counts.invalid += 1
                    report_invalid(f"line {number}: {invalid}")
                    continue
                await free_slots.acquire()
                publishing.create_task(publish_one(event_type, org_id, line.strip()))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def check_line(line: bytes) -> tuple[str, str]:
    """The type and the organisation of the event of a line. Raises InvalidBody if it is not one of the contract."""
    if len(line) > BODY_BYTES_MAX:
        raise InvalidBody(FieldError(field="body", message=f"is longer than {BODY_BYTES_MAX:,} bytes"))
    event_type = decode(_Line, line).type
    if event_type not in EVENTS:
        raise InvalidBody(FieldError(field="type", message=f"must be one of {', '.join(EVENTS)}"))
    return event_type, decode(EVENTS[event_type], line).org_id


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a file, without a byte order mark. Raises FileRefused.

    Of a line that is too long only so much is kept that its length shows.
    """
    line = bytearray()
    is_first = True
    async for chunk in chunks:
        *ends, start = chunk.split(b"\n")
        for end in ends:
            line += end[: BODY_BYTES_MAX + 1 - len(line)]
            yield _first_line(bytes(line)) if is_first else bytes(line)
            is_first = False
            line.clear()
        line += start[: BODY_BYTES_MAX + 1 - len(line)]
    if line:
        yield _first_line(bytes(line)) if is_first else bytes(line)


def _first_line(line: bytes) -> bytes:
    for start, message in _UNREADABLE.items():
        if line.startswith(start):
            raise FileRefused(message)
    return line.removeprefix(UTF8_BYTE_ORDER_MARK)


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What a file or pipe has, as soon as it has it. Raises FileRefused.

    A thread waits for it: the event loop goes on, and answers the broker's heartbeats. The thread is a daemon: a
    pipe that stays silent does not keep the command from ending.
    """
    loop = asyncio.get_running_loop()
    while True:
        chunk: asyncio.Future[bytes] = loop.create_future()
        threading.Thread(target=_read, args=(descriptor, loop, chunk), daemon=True).start()
        try:
            content = await chunk
        except OSError as error:
            raise FileRefused(f"the file cannot be read: {error.strerror}") from error
        if not content:
            return
        yield content


def _read(descriptor: int, loop: asyncio.AbstractEventLoop, chunk: asyncio.Future[bytes]) -> None:
    def deliver(content: bytes | OSError) -> None:
        if chunk.cancelled():
            return
        if isinstance(content, OSError):
            chunk.set_exception(content)
        else:
            chunk.set_result(content)

    content: bytes | OSError
    try:
        content = os.read(descriptor, CHUNK_BYTES)
    except OSError as error:
        content = error
    with suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(deliver, content)
