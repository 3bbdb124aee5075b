"""What tests against a database share: a second connection."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from handlers.connection import Connection


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    """A second connection to this test's database."""
    other = await asyncpg.connect(database_url)
    yield other
    await other.close()
