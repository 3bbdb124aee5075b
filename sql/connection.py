"""What handlers are given to speak to PostgreSQL with, and the transactions that they do it in."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from asyncpg import Connection as PlainConnection
from asyncpg import PostgresLogMessage, Record
from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "PoolConnectionProxy[Record] | PlainConnection[Record]"
"""A connection of the pool, or one of its own."""


class NotReplicated(Exception):
    """A transaction is committed on the primary, and perhaps not on the synchronous standby: nobody may rely on it."""


class TooLate(Exception):
    """A transaction was not committed, because whoever asked for it no longer waits."""


# A warning is how PostgreSQL tells that a commit did not wait for the standby.
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; SET LOCAL client_min_messages = warning"
)

# A transaction that wrote nothing waits for nothing at its end. But it may have found what an earlier one wrote, which
# still waits for the standby, or has given up waiting. So it writes a message to the WAL, which nobody reads: its
# commit is later in the WAL than all that it found.
_COMMIT: Final = (
    "SELECT CASE WHEN pg_current_xact_id_if_assigned() IS NULL THEN "
    "pg_logical_emit_message(true, 'export-runs', '') END; COMMIT"
)


@asynccontextmanager
async def transaction(
    connection: Connection, until_s: float = math.inf, parameters: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[None]:
    """Run what is inside as one transaction: committed at the end, rolled back where an exception leaves it.

    Until then PostgreSQL's configuration parameters have these values; the caller vouches for names and values.

    It is rolled back as well if the end comes after `until_s`, by the event loop's clock. Raises TooLate.

    It states what correctness depends on, whatever the defaults of the database, the role and the session are. A
    writer that waited for a lock must see what was committed meanwhile. And what it wrote or found is on the disk when
    it is committed, and on the synchronous standby, if there is one. Raises NotReplicated.

    Inside a transaction of asyncpg's own, which has stated that already or is a test's, it is a savepoint.
    """
    set_parameters = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in parameters.items())
    if connection.is_in_transaction():
        async with connection.transaction():
            if parameters:
                await connection.execute(set_parameters)
            yield
            _check_time(until_s)
        return
    try:
        await connection.execute(_BEGIN + set_parameters)
        yield
        _check_time(until_s)
        await _commit(connection)
    except BaseException:
        if connection.is_in_transaction() and not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise


def _check_time(until_s: float) -> None:
    if asyncio.get_running_loop().time() >= until_s:
        raise TooLate


async def _commit(connection: Connection) -> None:
    warnings: list[str | None] = []

    def note(_: Any, message: PostgresLogMessage) -> None:
        if message.severity_en == "WARNING":
            warnings.append(message.message)

    connection.add_log_listener(note)
    try:
        await connection.execute(_COMMIT)
    finally:
        connection.remove_log_listener(note)
    if warnings:  # an administrator has cancelled the wait for the standby: PostgreSQL calls that a success
        raise NotReplicated(f"committed with a warning: {warnings[0]}")


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[None]:
    """Run what is inside as one transaction that sees one moment, and that can write to temporary tables only."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        yield
