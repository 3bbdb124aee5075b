"""Publish the events of an import, and wait until the service has stored them."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final
from uuid import UUID

from cli.event_file import UNCONFIRMED_MAX, Publish
from handlers.imports import stored_events
from sql.connection import Connection

STORED_PAGE_EVENTS: Final = 1_000
STORED_POLL_S: Final = 0.2
STORED_WAIT_S: Final = 60.0
"""When nothing new was stored for so long, the wait ends: the workers are away, or the events are dead letters."""


async def publish_events(
    events: Iterable[tuple[str, str, str, str]], publish: Publish, rate: int | None, report: Callable[[int], None]
) -> None:
    """Publish events, at most `rate` a second; returns when all are confirmed. Raises what `publish` raises."""
    free_slots = asyncio.Semaphore(UNCONFIRMED_MAX)
    loop = asyncio.get_running_loop()
    start_s, confirmed = loop.time(), 0

    async def publish_one(event_type: str, org_id: str, body: str) -> None:
        nonlocal confirmed
        try:
            await publish(event_type, org_id, body.encode())
            confirmed += 1
            report(confirmed)
        finally:
            free_slots.release()

    try:
        async with asyncio.TaskGroup() as publishing:
            for number, (event_type, org_id, _, body) in enumerate(events):
                if rate is not None:
                    await asyncio.sleep(start_s + number / rate - loop.time())
                await free_slots.acquire()
                publishing.create_task(publish_one(event_type, org_id, body))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def until_stored(connection: Connection, event_ids: Iterable[UUID], report: Callable[[int], None]) -> int:
    """Wait until the log has these events; returns how many are stored when nothing changes any more."""
    loop = asyncio.get_running_loop()
    remaining = iter(event_ids)
    stored = 0
    while page := set(islice(remaining, STORED_PAGE_EVENTS)):
        last_s = loop.time()
        while page and loop.time() - last_s < STORED_WAIT_S:
            found = await stored_events(connection, page)
            if found:
                page -= found
                stored += len(found)
                last_s = loop.time()
                report(stored)
            else:
                await asyncio.sleep(STORED_POLL_S)
        if page:
            return stored + await _count(connection, remaining)
    return stored


async def _count(connection: Connection, event_ids: Iterable[UUID]) -> int:
    """How many of the others are stored now."""
    remaining, stored = iter(event_ids), 0
    while page := list(islice(remaining, STORED_PAGE_EVENTS)):
        stored += len(await stored_events(connection, page))
    return stored
