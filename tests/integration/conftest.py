"""What tests against a database share: a second connection, and how to see that it waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from handlers.connection import Connection
from tests.conftest import connected
from tests.wire import POLL_S, WAIT_S


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    """A second connection to this test's database."""
    other = await connected(database_url)
    yield other
    await other.close()


async def until_blocked(asking: Connection, blocked: Connection) -> None:
    """Wait until a connection waits for another's lock."""
    async with asyncio.timeout(WAIT_S):
        while not await asking.fetchval("SELECT pg_blocking_pids($1)", blocked.get_server_pid()):
            await asyncio.sleep(POLL_S)
