"""Databases: an empty one for each drain, and two that are filled by the server itself."""

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.processes import MIGRATE, variables
from benchmarks.sizes import CLAIMS_PER_EVENT, HISTORY_PAGE_RUNS, Sizes
from benchmarks.statements import statement
from local.services import Services

TEMPLATE: Final = "benchmark_template"
"""Migrated, and with the tables of the peers; no rows."""

DRAINED: Final = "benchmark_drained"
FILL_RUNS: Final = 25_000
"""Runs a statement, so that the progress can be seen."""


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """One connection."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def create(services: Services, name: str, template: str) -> str:
    """A database like another, in place of one of the same name; returns its URL."""
    async with connected(services.database_url) as server:
        await server.execute(statement("drop_database").format(name=name))
        await server.execute(statement("create_database").format(name=name, template=template))
    return with_database(services.database_url, name)


async def create_template(services: Services) -> None:
    """The database that all others are made of."""
    url = await create(services, TEMPLATE, "template1")
    environment = variables(services, url, prefetch=1)
    subprocess.run(MIGRATE, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: ASYNC221 -- nothing else goes on
    async with connected(url) as connection:
        await connection.execute(statement("peer_tables"))


async def create_empty(services: Services) -> str:
    """An empty database, the disk at rest; returns its URL."""
    url = await create(services, DRAINED, TEMPLATE)
    await checkpoint(url)
    return url


async def checkpoint(url: str) -> None:
    """Have what is written by now brought to the disk now, and not while something is measured."""
    async with connected(url) as connection:
        await connection.execute(statement("checkpoint"))


async def fill(
    services: Services, claims: int, sizes: Sizes, say: Callable[[str], None], *, for_peers: bool, for_history: bool
) -> str:
    """A database with so many claims, for peers to look up too, or with a long history; returns its URL."""
    url = await create(services, f"benchmark_{claims}", TEMPLATE)
    runs = claims // CLAIMS_PER_EVENT
    async with connected(url) as connection:
        for first in range(0, runs, FILL_RUNS):
            say(f"filling a database with {claims:,} claims: {first * CLAIMS_PER_EVENT:,}")
            part = first, min(first + FILL_RUNS, runs), sizes.organisations, CLAIMS_PER_EVENT
            await connection.execute(statement("fill_runs"), *part)
            await connection.execute(statement("fill_claims"), *part)
        if for_peers:
            await connection.execute(statement("fill_peer_runs"))
            await connection.execute(statement("fill_peer_claims"))
        if for_history:
            say("filling a database with a long history")
            await connection.execute(statement("fill_history"), (sizes.history_page + 1) * HISTORY_PAGE_RUNS)
        say(f"tidying up {claims:,} claims")
        await connection.execute(statement("vacuum"))
    await checkpoint(url)
    return url
