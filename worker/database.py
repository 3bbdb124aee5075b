"""The connections to PostgreSQL, and what its errors mean for a message (DESIGN section 4)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Final, TypeAlias

import asyncpg
import structlog
from asyncpg import Record
from asyncpg.connect_utils import SessionAttribute

from handlers.connection import Connection
from worker.cancellation import is_being_cancelled
from worker.logs import describe
from worker.settings import DatabaseSettings

ACQUIRE_TIMEOUT_S: Final = 5
COMMAND_TIMEOUT_MARGIN_S: Final = 5
"""PostgreSQL's own time-out comes first; this much later we no longer believe that it answers."""

POOL_CLOSE_TIMEOUT_S: Final = 5

Pool: TypeAlias = "asyncpg.Pool[Record]"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Failure(Enum):
    """What an exception means for the message that met it."""

    UNAVAILABLE = auto()
    """Nothing is wrong with the message; later it will pass."""

    UNSTORABLE = auto()
    """PostgreSQL refuses the values; it will refuse them again."""

    BUG = auto()


# Classes and codes of https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNAVAILABLE: Final = (
    "08",  # connection lost
    "25006",  # read only: a standby, or a full disk's precaution
    "28",  # password or role changed
    "3D000",  # database missing
    "40",  # serialisation failure, deadlock
    "42501",  # a privilege withdrawn
    "42703",  # a column missing: not migrated yet
    "42P01",  # a table missing
    "53",  # no memory, no disk, no connection left
    "55P03",  # lock time-out
    "57",  # shut down, starting up, cancelled by a time-out
    "58",  # the machine fails
)
_UNSTORABLE: Final = ("21", "22", "23", "54")


def meaning_of(error: BaseException) -> Failure:
    """What an exception from the database means for the message that met it."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Failure.UNAVAILABLE  # a migration changed a table under us; the next attempt plans anew
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        if sqlstate.startswith(_UNAVAILABLE):
            return Failure.UNAVAILABLE
        return Failure.UNSTORABLE if sqlstate.startswith(_UNSTORABLE) else Failure.BUG
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg's own errors have no SQLSTATE: a value it cannot encode, a connection that is gone, a URL it
        # cannot read.
        a_value = isinstance(error, ValueError) and not isinstance(error, asyncpg.ClientConfigurationError)
        return Failure.UNSTORABLE if a_value else Failure.UNAVAILABLE
    if isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError):
        return Failure.UNAVAILABLE
    return Failure.BUG


class Database:
    """The connections of a worker. That PostgreSQL cannot be used is logged once, and that it can be again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._away = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection from the pool. What is raised in its use passes through, CancelledError before all else."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection
        except Exception as error:
            if meaning_of(error) is Failure.UNAVAILABLE and not self._away:
                self._away = True
                log.warning("database_unavailable", **describe(error))
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                await self._pool.expire_connections()  # to what may be a primary no more
            if is_being_cancelled():
                # Or the task would go on, and its session wait for it.
                raise asyncio.CancelledError from error
            raise
        if self._away:
            self._away = False
            log.info("database_available")


@asynccontextmanager
async def open_pool(settings: DatabaseSettings, connections_max: int) -> AsyncIterator[Pool]:
    """A pool that connects when it is first used, so that it can be opened while PostgreSQL is away."""
    pool = asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=connections_max,
        timeout=settings.connect_timeout_s,
        command_timeout=settings.statement_timeout_s + COMMAND_TIMEOUT_MARGIN_S,
        statement_cache_size=settings.statement_cache_size,
        server_settings=server_settings(settings),
        target_session_attrs=SessionAttribute.primary,  # a standby answers, with what was true once
        reset=_nothing_to_reset,
    )
    await pool
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(POOL_CLOSE_TIMEOUT_S):
                await pool.close()
        except (TimeoutError, OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
            pool.terminate()


async def _nothing_to_reset(connection: Connection) -> None:
    """asyncpg rolls an open transaction back by itself. Nothing here changes a connection otherwise, and its usual
    clean-up costs each query a second way to PostgreSQL and back.
    """


@asynccontextmanager
async def connect(settings: DatabaseSettings) -> AsyncIterator["asyncpg.Connection[Record]"]:
    """One connection, for a command."""
    connection = await asyncpg.connect(
        settings.database_url.get_secret_value(),
        timeout=settings.connect_timeout_s,
        server_settings={"application_name": APPLICATION_NAME},
        target_session_attrs=SessionAttribute.primary,
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=POOL_CLOSE_TIMEOUT_S)


APPLICATION_NAME: Final = "export-runs"


def server_settings(settings: DatabaseSettings) -> dict[str, str]:
    """What each connection of the worker asks of PostgreSQL."""
    return {
        "application_name": APPLICATION_NAME,
        "statement_timeout": _milliseconds(settings.statement_timeout_s),
        "lock_timeout": _milliseconds(settings.lock_timeout_s),
        "idle_in_transaction_session_timeout": _milliseconds(settings.statement_timeout_s + COMMAND_TIMEOUT_MARGIN_S),
        # Who gets a lock must see what was committed while it waited.
        "default_transaction_isolation": "read committed",
        # Every query is short; compiling one would take longer than running it.
        "jit": "off",
        # The right plan is the same for every value: probe the index. Planned for its values, a batch of some
        # hundred ids may read a small table whole, and that plan goes on being used while the table grows.
        "plan_cache_mode": "force_generic_plan",
        # Nor because the table was empty when the plan was made: leases come and go.
        "enable_seqscan": "off",
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
