"""What tests against a database share: a second connection, and a way to see that a connection waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sql.connection import Connection
from tests.conftest import connected
from tests.wire import POLL_S, WAIT_S


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    """A second connection to this test's database."""
    other = await connected(database_url)
    yield other
    await other.close()


async def until_blocked(observer: Connection, waiter: Connection) -> None:
    """Wait until `waiter` waits for a lock of another connection. `observer` asks PostgreSQL whether it does."""
    async with asyncio.timeout(WAIT_S):
        while not await observer.fetchval("SELECT pg_blocking_pids($1)", waiter.get_server_pid()):
            await asyncio.sleep(POLL_S)
