"""A synchronous standby: nothing may be acknowledged that is on the primary alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiormq
import asyncpg
from aiormq import spec

from local.postgresql import STANDBY_NAME, LocalPostgreSQL, LocalStandby

POLL_S: Final = 0.05
REPLAY_PAUSE_S: Final = 0.3
"""A standby that replays nothing for so long has replayed all it has."""
NOWHERE_PORT: Final = 1
"""Nobody listens on this port."""

PRIMARY_SETTINGS: Final = {
    # What the standby misses while it is away, it can still get afterwards.
    "wal_keep_size": "2GB",
    # It tries this often to reach the primary again.
    "wal_retrieve_retry_interval": "200ms",
    # A deadlock is found before the lock time-out of a batch, which is one second like the default of this.
    "deadlock_timeout": "200ms",
    # The checker wants to know when each event was stored.
    "track_commit_timestamp": "on",
}


class Standby:
    """The standby of a primary, on a port of its own or on `port`. Commits wait for it when it has started."""

    def __init__(self, primary: LocalPostgreSQL, port: int | None = None) -> None:
        self._primary = primary
        self._server = LocalStandby(primary)
        self._server.port = port or self._server.port
        self._connection_text = ""

    async def start(self) -> None:
        """Copy the primary, follow it, and make every commit wait for that."""
        await asyncio.to_thread(self._server.start)
        async with _connected(self._server.url) as connection:
            self._connection_text = await connection.fetchval("SHOW primary_conninfo")
        async with _connected(self._primary.url) as connection:
            await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY_NAME}'")
            await connection.execute("SELECT pg_reload_conf()")
            while not await connection.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"):
                await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """End it."""
        self._server.close()

    async def leave(self) -> None:
        """Lose the primary: from now on the primary's commits wait."""
        port = f"port={self._primary.port}"
        assert port in self._connection_text
        await self._follow(self._connection_text.replace(port, f"port={NOWHERE_PORT}"))
        async with _connected(self._server.url) as connection:
            while await connection.fetchval("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"):
                await asyncio.sleep(POLL_S)

    async def join(self) -> None:
        """Follow the primary again, and fetch what it missed."""
        await self._follow(self._connection_text)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    async def promote(self) -> LocalPostgreSQL:
        """Make a primary of it that waits for no standby. Returns that."""
        async with _connected(self._server.url) as connection:
            assert await connection.fetchval("SELECT pg_promote()")
        return self._server

    async def restart(self) -> None:
        """Crash and start it."""
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)

    async def logged_events(self) -> set[str]:
        """The ids of the events on its disk. It must be away from its primary."""
        async with _connected(self._server.url) as connection:
            before, after = "", "0/0"
            # The end of what it received may be a part of a record, so it may never reach that.
            while before != after:
                await asyncio.sleep(REPLAY_PAUSE_S)
                before, after = after, await connection.fetchval("SELECT pg_last_wal_replay_lsn()::text")
            rows = await connection.fetch("SELECT event_id::text FROM export_run_events")
        return {row["event_id"] for row in rows}

    async def _follow(self, connection_text: str) -> None:
        quoted = connection_text.replace("'", "''")
        async with _connected(self._server.url) as connection:
            await connection.execute(f"ALTER SYSTEM SET primary_conninfo = '{quoted}'")
            await connection.execute("SELECT pg_reload_conf()")


async def queued_events(amqp_url: str, queues: Sequence[str]) -> set[str]:
    """The ids of the events in these queues, which must have no consumer. They all stay there.

    A message with a body that is no event has no id here.
    """
    ids: set[str] = set()
    connection = await aiormq.connect(amqp_url)
    try:
        channel = await connection.channel()
        for queue in queues:
            while True:
                answer = await channel.basic_get(queue)
                if not isinstance(answer.delivery, spec.Basic.GetOk):
                    break
                ids.add(_event_id(answer.body))
    finally:
        await connection.close()  # which gives all of them back
    return ids


def _event_id(body: bytes) -> str:
    try:
        event = json.loads(body)
        return str(event["eventId"])
    except (ValueError, RecursionError, TypeError, KeyError):
        return ""


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        yield connection
    finally:
        connection.terminate()
