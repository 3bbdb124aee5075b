"""What tests against a database share: one for a whole file, and a second connection."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from handlers.connection import Connection
from tests.conftest import cloned_database


@pytest.fixture(scope="module")
def shared_url(template_url: str) -> Iterator[str]:
    """One database for the tests of a file: to clone one for each would take longer than they do."""
    loop = asyncio.new_event_loop()
    database = cloned_database(template_url)
    yield loop.run_until_complete(database.__aenter__())
    loop.run_until_complete(database.__aexit__(None, None, None))
    loop.close()


@pytest.fixture
async def emptied_url(shared_url: str) -> str:
    """The same, with nothing in it; the log refuses this to everybody else."""
    connection = await asyncpg.connect(shared_url, server_settings={"session_replication_role": "replica"})
    await connection.execute(
        "DELETE FROM claim_leases; DELETE FROM claim_overrides; DELETE FROM double_exports;"
        "DELETE FROM export_run_events; DELETE FROM export_runs; DELETE FROM export_run_claims"
    )
    await connection.close()
    return shared_url


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    """A second connection to this test's database."""
    other = await asyncpg.connect(database_url)
    yield other
    await other.close()
