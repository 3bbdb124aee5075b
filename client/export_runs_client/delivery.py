"""Publishes what the spool has, until RabbitMQ has confirmed it."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import UUID

from .connection import Connection
from .errors import NoAnswer
from .reports import encoded, end_of_dead, run_finished
from .schema.events import RUN_FINISHED
from .schema.fields import counted
from .spool import Spool, UnreadableRuns, new_spool, spool_files, taken_over

CONFIRM_TIMEOUT_S: Final = 15.0
PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 10.0
"""After an event that was not confirmed: steps that double, each shortened by up to a half at random. The longest also
after an error of the disk, unless something new is written before."""

log = logging.getLogger("export_runs_client")


async def deliver(connection: Connection, spool: Spool) -> int:
    """Publish the events of a file one by one until none is left; returns how many those were. It never gives up."""
    count = 0
    pause_s = PAUSE_FIRST_S
    while (event := await spool.do(spool.first_event)) is not None:
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                link = await connection.link()
                await link.publish_event(event.event_type, event.org_id, event.body)
        except (NoAnswer, TimeoutError) as error:
            log.warning("%s is not confirmed yet: %s", event.event_type, error)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        else:
            await spool.do(spool.remove_event, event)
            pause_s = PAUSE_FIRST_S
            count += 1
    return count


async def end_dead_runs(spool: Spool) -> int:
    """Write down the ends of the runs that a dead process left; returns how many of them cannot be read."""
    unreadable = 0
    for run_id in await spool.do(spool.run_ids):
        try:
            run = await spool.do(spool.run, run_id)
            event = run_finished(end_of_dead(run))
        except ValueError as error:
            log.error("run %s: its process has died, and what it left cannot be read: %s", run_id, error)
            unreadable += 1
            continue
        log.warning("run %s of %s: its process has died; reported as %s", run.run_id, run.org_id, event.status)
        await spool.do(spool.end_run, run.run_id, run.org_id, RUN_FINISHED, encoded(event))
    return unreadable


class Delivery:
    """Publishes in the background what a client writes down, and what dead processes left. Made by open_delivery."""

    def __init__(self, connection: Connection, folder: Path, spool: Spool) -> None:
        self._connection = connection
        self._folder = folder
        self.spool = spool
        """The file of this client."""
        self._written = asyncio.Event()
        self._idle = asyncio.Event()
        self._unwritten_ends: list[tuple[UUID, str, str, bytes]] = []

    def wake(self) -> None:
        """There is something new to publish."""
        self._idle.clear()
        self._written.set()

    async def end_run(self, run_id: UUID, org_id: str, body: bytes) -> None:
        """Write down the event of a run's end, in place of the run. Who is cancelled meanwhile has it written, too.

        Raises sqlite3.Error where the disk does not take it. Then it is tried again as long as the client lives: nobody
        else reports the run of a process that lives.
        """
        await asyncio.shield(asyncio.create_task(self._write_end((run_id, org_id, RUN_FINISHED, body))))

    async def _write_end(self, end: tuple[UUID, str, str, bytes]) -> None:
        try:
            await self.spool.do(self.spool.end_run, *end)
        except sqlite3.Error:
            self._unwritten_ends.append(end)
            raise
        finally:
            self.wake()

    async def drained(self) -> None:
        """Wait until everything is published."""
        await self._idle.wait()

    async def run(self) -> None:
        """Publish, until it is cancelled."""
        await self._deliver_left()
        while True:
            self._written.clear()
            is_done = await self._write_ends()
            try:
                await deliver(self._connection, self.spool)  # what is written does not wait for what finds no room
            except sqlite3.Error as error:
                log.error("the spool %s cannot be read or written: %s", self.spool.path, error)
                is_done = False
            if is_done and not self._written.is_set():
                self._idle.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if is_done else PAUSE_MAX_S):
                    await self._written.wait()

    async def _write_ends(self) -> bool:
        """Write down the ends that the disk did not take before; returns whether it has taken all of them now."""
        while self._unwritten_ends:
            try:
                await self.spool.do(self.spool.end_run, *self._unwritten_ends[0])
            except sqlite3.Error as error:
                run_id, *_ = self._unwritten_ends[0]
                log.error("run %s: its end cannot be written to %s: %s", run_id, self.spool.path, error)
                return False
            del self._unwritten_ends[0]
        return True

    async def _deliver_left(self) -> None:
        for path in await asyncio.to_thread(spool_files, self._folder):
            try:
                await deliver_left(self._connection, path)
            except (sqlite3.Error, UnreadableRuns) as error:
                log.error("the spool %s cannot be read or written: %s", path, error)


async def deliver_left(connection: Connection, path: Path) -> int | None:
    """End the runs of a dead process, and publish all that its file has; returns how many events those were.

    None if the process lives. Raises sqlite3.Error if the file cannot be read, and UnreadableRuns.
    """
    spool = await asyncio.to_thread(taken_over, path)
    if spool is None:
        return None
    try:
        unreadable = await end_dead_runs(spool)
        count = await deliver(connection, spool)
    finally:
        spool.close()
    if unreadable:
        raise UnreadableRuns(
            f"another version of this client left {counted(unreadable, 'run')}, and can read what it left"
        )
    return count


@asynccontextmanager
async def open_delivery(connection: Connection, folder: Path, close_timeout_s: float) -> AsyncIterator[Delivery]:
    """Deliver until the end, and then for at most `close_timeout_s` more. What is left waits for the next start."""
    delivery = Delivery(connection, folder, await asyncio.to_thread(new_spool, folder))
    running = asyncio.create_task(delivery.run())
    try:
        yield delivery
    finally:
        drained = asyncio.create_task(delivery.drained())
        await asyncio.wait({running, drained}, timeout=close_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, drained):
            task.cancel()
        await asyncio.wait({running, drained})
        delivery.spool.close()
