"""Databases: an empty one for each drain, and two that PostgreSQL fills by itself."""

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.processes import MIGRATE, variables
from benchmarks.sizes import CLAIMS_PER_EVENT, HISTORY_PAGE_RUNS, Sizes
from benchmarks.statements import statement
from benchmarks.wire import BUSY_ORGANISATION, QUIET_ORGANISATION
from local.services import Services

TEMPLATE: Final = "benchmark_template"
"""The name of a database that is migrated, has the tables of the peers too, and has no rows."""

DRAINED: Final = "benchmark_drained"
RUNS_PER_STATEMENT: Final = 25_000
"""One statement fills in this many runs, so that the progress can be seen."""


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open a connection, and close it at the end."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def create(services: Services, name: str, template: str) -> str:
    """Make a copy of a database, and drop one that has the name already. Returns its URL."""
    async with connected(services.database_url) as server:
        await server.execute(statement("drop_database").format(name=name))
        await server.execute(statement("create_database").format(name=name, template=template))
    return with_database(services.database_url, name)


async def create_template(services: Services) -> None:
    """Make the database that all others are copied from."""
    url = await create(services, TEMPLATE, "template1")
    environment = variables(services, url, prefetch=1)
    subprocess.run(MIGRATE, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: ASYNC221 -- no other task runs
    async with connected(url) as connection:
        await connection.execute(statement("peer_tables"))


async def create_empty(services: Services) -> str:
    """Make an empty database, and wait until PostgreSQL has written everything to disk. Returns its URL."""
    url = await create(services, DRAINED, TEMPLATE)
    await checkpoint(url)
    return url


async def checkpoint(url: str) -> None:
    """Let PostgreSQL write its pages to disk now, and not while something is measured."""
    async with connected(url) as connection:
        await connection.execute(statement("checkpoint"))


async def fill(
    services: Services, claims: int, sizes: Sizes, say: Callable[[str], None], *, for_peers: bool, for_history: bool
) -> str:
    """Fill a database with this many claims, and on request a long history, or the tables of the peers and the two
    organisations of the questions. Returns its URL."""
    url = await create(services, f"benchmark_{claims}", TEMPLATE)
    runs = claims // CLAIMS_PER_EVENT
    async with connected(url) as connection:
        for first in range(0, runs, RUNS_PER_STATEMENT):
            say(f"filling a database with {claims:,} claims: {first * CLAIMS_PER_EVENT:,}")
            part = first, min(first + RUNS_PER_STATEMENT, runs), sizes.organisations, CLAIMS_PER_EVENT
            await connection.execute(statement("fill_runs"), *part)
            await connection.execute(statement("fill_claims"), *part)
        if for_peers:
            await connection.execute(statement("fill_peer_runs"))
            await connection.execute(statement("fill_peer_claims"))
            for org_id, runs in ((BUSY_ORGANISATION, sizes.busy_runs), (QUIET_ORGANISATION, sizes.quiet_runs)):
                await connection.execute(statement("fill_organisation"), org_id, runs, CLAIMS_PER_EVENT)
        if for_history:
            say("filling a database with a long history")
            await connection.execute(statement("fill_history"), (sizes.history_page + 1) * HISTORY_PAGE_RUNS)
        say(f"vacuuming {claims:,} claims")
        await connection.execute(statement("vacuum"))
    await checkpoint(url)
    return url
