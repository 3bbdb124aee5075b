"""The session in which a command reads or writes much."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sql
from cli.console import read_settings
from sql.connection import Connection
from worker.database.gate import Gate
from worker.database.pool import direct_connection, session_settings
from worker.settings import DatabaseSettings


@asynccontextmanager
async def long_session(**parameters: str) -> AsyncIterator[Connection]:
    """A session for a command that takes long, planned like the worker's, to a database that fits this version."""
    settings = read_settings(DatabaseSettings)
    defaults = {**session_settings(settings), "statement_timeout": "0"}
    async with direct_connection(settings, {**defaults, **parameters}) as connection:
        await Gate(sql.migrations(), {}).check(connection)
        yield connection
