"""The connections to PostgreSQL, and whether it can be used."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypedDict

import asyncpg
import structlog
from asyncpg import Record

import sql
from sql.connection import Connection, transaction
from worker.database.errors import DatabaseRefused, Failure, meaning_of
from worker.database.gate import POOLER_ADVICE, POOLER_ERRORS, Gate, differing_settings
from worker.database.primary import Primary
from worker.limits import TimeOuts, WorkerLimits
from worker.logs import describe
from worker.retries import delays_s, is_being_cancelled, wait
from worker.settings import DatabaseSettings

ACQUIRE_TIMEOUT_S: Final = 5
COMMAND_TIMEOUT_MARGIN_S: Final = 5
"""PostgreSQL's own time-out comes first; this much later we no longer believe that it answers."""

POOL_CLOSE_TIMEOUT_S: Final = 5

STATEMENT_CACHE_SIZE: Final = 100
"""Prepared statements that a session keeps. More than there are queries."""

APPLICATION_NAME: Final = "export-runs"

Pool: TypeAlias = "asyncpg.Pool[Record]"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class DatabaseAway(ConnectionError):
    """PostgreSQL has been away for so long that nobody tries any more but the one who watches it."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a short transaction from writing, and whether PostgreSQL can be read all the same.

    It can be read while it is read-only, while somebody locks a table, and while commits wait for a standby.
    """

    error: Exception
    is_readable: bool


class Database:
    """The connections of a worker, and what is known of the database.

    One task judges whether PostgreSQL can be used (`watch`), so that one broken connection is not taken for an
    outage, and one that works not for its end. That it is away is logged once, then at growing intervals. When it has
    been away for `database_away_max_s` it is given up, until it is back.
    """

    def __init__(self, pool: Pool, gate: Gate, limits: WorkerLimits) -> None:
        self._pool = pool
        self._gate = gate
        self._limits = limits
        self._gate_passed = False
        self._doubt = asyncio.Event()
        self._obstacle: Obstacle | None = None
        self._away_since_s: float | None = None
        self._usable = asyncio.Event()
        self._usable.set()
        self._given_up = asyncio.Event()
        self.product: str | None = None
        """What the server is, with its version: "PostgreSQL 18.1"; None as long as it has never answered."""

    @property
    def away_s(self) -> float:
        """For how long, in seconds, PostgreSQL has been away for this worker; 0 if it is there."""
        return 0.0 if self._away_since_s is None else asyncio.get_running_loop().time() - self._away_since_s

    @property
    def is_given_up(self) -> bool:
        """Whether PostgreSQL has been away for this worker for too long, or since the worker started."""
        return self._given_up.is_set()

    async def until_given_up(self) -> None:
        """Wait until PostgreSQL has been away for too long."""
        await self._given_up.wait()

    async def until_usable(self) -> None:
        """Wait until PostgreSQL, once given up, is back."""
        await self._usable.wait()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection from the pool. What is raised in its use passes through, CancelledError before all else.

        Before the first use, and before the next one after PostgreSQL was away, the gate is checked: somebody may have
        restored or configured another database. Raises DatabaseRefused, and DatabaseAway at once where PostgreSQL was
        given up because it does not answer.
        """
        if self.is_given_up and self._obstacle and not self._obstacle.is_readable:
            raise DatabaseAway
        try:
            async with acquire(self._pool) as connection:
                if not self._gate_passed:
                    await self._gate.check(connection)
                    self._gate_passed = True
                yield connection
        except asyncio.CancelledError:
            self._doubt.set()  # it may have taken too long because PostgreSQL does not answer
            raise
        except Exception as error:
            if meaning_of(error) is Failure.UNAVAILABLE:
                self._gate_passed = False
                self._doubt.set()
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                await self._pool.expire_connections()  # to what may be a primary no more
            if is_being_cancelled():
                # Or the task would go on, and its session wait for it.
                raise asyncio.CancelledError from error
            raise

    @asynccontextmanager
    async def transaction(self, time_outs: TimeOuts) -> AsyncIterator[Connection]:
        """A transaction with time-outs of its own, committed at its end. Raises like `connection`."""
        async with self.connection() as connection, transaction(connection, parameters=_parameters(time_outs)):
            yield connection

    async def accepts_writes(self) -> bool:
        """Whether a transaction that writes gets through now, other than the one that has just been interrupted.

        False while PostgreSQL is away, read-only, or somebody keeps all writers from a table.
        """
        return await self._find_obstacle() is None

    async def look(self) -> None:
        """Judge once, before anybody uses it: a database that is away then is given up at once."""
        self._obstacle = await self._find_obstacle()
        if self._obstacle:
            self._away_since_s = asyncio.get_running_loop().time()
            self._give_up()

    async def watch(self) -> None:
        """Judge, until cancelled, whether PostgreSQL can be used: when somebody met an error that speaks of it, and
        every `probe_interval_s`, because a pooler may hide that it was away.
        """
        loop = asyncio.get_running_loop()
        while True:
            if self._away_since_s is None:
                await wait(self._doubt, self._limits.probe_interval_s)
                self._doubt.clear()
                doubted_at_s = loop.time()
                self._obstacle = await self._find_obstacle()
                if self._obstacle is None:
                    continue
                self._away_since_s = doubted_at_s
            giving_up = loop.call_at(self._away_since_s + self._limits.database_away_max_s, self._give_up)
            await self._until_no_obstacle()
            giving_up.cancel()
            log.info("database_available", away_s=round(self.away_s), database=self.product)
            self._away_since_s = None
            self._given_up.clear()
            self._usable.set()

    async def _until_no_obstacle(self) -> None:
        delays = delays_s(self._limits.retry_delay_first_s, self._limits.retry_delay_max_s)
        next_line_s = 0.0
        refusal: str | None = None
        while self._obstacle:
            self._gate_passed = False
            error = self._obstacle.error
            earlier, refusal = refusal, str(error) if isinstance(error, DatabaseRefused) else None
            if self.away_s >= next_line_s or (refusal and refusal != earlier):
                if refusal:
                    log.error("database_refused", away_s=round(self.away_s), reason=refusal)
                else:
                    log.warning("database_unavailable", away_s=round(self.away_s), **describe(error))
                next_line_s = max(self._limits.repeat_log_first_s, 2 * self.away_s)
            await asyncio.sleep(next(delays))
            self._obstacle = await self._find_obstacle()

    def _give_up(self) -> None:
        self._usable.clear()
        self._given_up.set()

    async def _find_obstacle(self) -> Obstacle | None:
        """What keeps a short transaction from writing, the gate included; None if nothing does."""
        readable = asyncio.Event()
        probe = asyncio.create_task(self._probe(readable))
        # Not asyncio.timeout: on a connection that is frozen, asyncpg's clean-up takes seconds more.
        try:
            await asyncio.wait({probe}, timeout=ACQUIRE_TIMEOUT_S + self._limits.probe_timeout_s)
        finally:
            probe.cancel()
        error = probe.result() if probe.done() else TimeoutError("a transaction that writes does not end")
        if error and not readable.is_set():
            await self._pool.expire_connections()  # to a machine that may be gone without a word
        return Obstacle(error, readable.is_set()) if error else None

    async def _probe(self, readable: asyncio.Event) -> Exception | None:
        try:
            async with acquire(self._pool) as connection:
                await self._gate.check(connection)
                readable.set()
                self.product = database_product(connection)
                time_outs = TimeOuts(self._limits.probe_timeout_s, self._limits.probe_timeout_s)
                async with transaction(connection, parameters=_parameters(time_outs)):
                    await connection.execute(sql.query("lock_tables_as_writers_do"))
                    if await connection.fetchval(sql.query("is_read_only")):
                        raise asyncpg.ReadOnlySQLTransactionError("the database is read-only")
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is in the way
            return error
        return None


@asynccontextmanager
async def acquire(pool: Pool) -> AsyncIterator[Connection]:
    """A connection of the pool. Raises DatabaseRefused where a pooler refuses what a session asks for."""
    try:
        connection = await pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
    except POOLER_ERRORS as error:
        raise DatabaseRefused(f"the database refuses a session: {error}; {POOLER_ADVICE}") from None
    try:
        yield connection
    finally:
        # asyncpg goes on with this when the task that waits for it is cancelled. Then nobody else reads how it ended.
        releasing = asyncio.ensure_future(pool.release(connection))
        releasing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(releasing)


def database_product(connection: Connection) -> str:
    """What the server is, with its version: "PostgreSQL 18.1"."""
    version = connection.get_server_version()
    return f"PostgreSQL {version.major}.{version.minor}"


def gate_of(settings: DatabaseSettings) -> Gate:
    """What a worker of this version, with these settings, needs of the database."""
    return Gate(sql.migrations(), session_settings(settings))


@asynccontextmanager
async def watched_database(settings: DatabaseSettings, pool: Pool, limits: WorkerLimits) -> AsyncIterator[Database]:
    """The database of a worker, judged once, and the task that watches it.

    That task ends by a bug only. Then whoever uses the database is interrupted, and the bug raised: without the watch
    nobody would notice that PostgreSQL is away, or back.
    """
    database = Database(pool, gate_of(settings), limits)
    await database.look()
    user = asyncio.current_task()
    assert user is not None
    watch = asyncio.create_task(database.watch())
    watch.add_done_callback(lambda ended: ended.cancelled() or user.cancel())
    try:
        yield database
    finally:
        watch.cancel()
        if watch.done() and not watch.cancelled():
            watch.result()


@asynccontextmanager
async def open_pool(settings: DatabaseSettings, connections_max: int) -> AsyncIterator[Pool]:
    """A pool that connects when it is first used, so that it can be opened while PostgreSQL is away."""
    primary = Primary(settings.database_urls)

    async def connect_to_primary(*_: Any, **options: Any) -> "asyncpg.Connection[Record]":
        return await primary.connect(min(settings.connect_timeout_s, ACQUIRE_TIMEOUT_S), **options)

    pool = asyncpg.create_pool(
        min_size=0,
        max_size=connections_max,
        connect=connect_to_primary,
        command_timeout=settings.statement_timeout_s + COMMAND_TIMEOUT_MARGIN_S,
        **_session(settings, session_settings(settings)),
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
async def connect(
    settings: DatabaseSettings, parameters: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator["asyncpg.Connection[Record]"]:
    """One connection, for a command, with these configuration parameters of PostgreSQL."""
    connection = await Primary(settings.database_urls).connect(
        settings.connect_timeout_s, **_session(settings, parameters)
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=POOL_CLOSE_TIMEOUT_S)


@asynccontextmanager
async def direct_connection(
    settings: DatabaseSettings, parameters: Mapping[str, str]
) -> AsyncIterator["asyncpg.Connection[Record]"]:
    """A connection that keeps its session and its parameters. Raises DatabaseRefused where a pooler drops them."""
    refused = DatabaseRefused(
        "EXPORT_RUNS_DATABASE_URL leads to a pooler: this command needs one session of PostgreSQL for itself, so run "
        "it with a URL that leads to PostgreSQL itself"
    )
    try:
        async with connect(settings.model_copy(update={"transaction_pooling": False}), parameters) as connection:
            if await differing_settings(connection, parameters):
                raise refused
            yield connection
    except POOLER_ERRORS:
        raise refused from None


class _Session(TypedDict):
    server_settings: dict[str, str]
    statement_cache_size: int


def _session(settings: DatabaseSettings, parameters: Mapping[str, str]) -> _Session:
    """How asyncpg begins a session, and what it may keep in it.

    A pooler that lends a session for one transaction refuses parameters, and loses prepared statements.
    """
    if settings.transaction_pooling:
        return {"server_settings": {"application_name": APPLICATION_NAME}, "statement_cache_size": 0}
    return {
        "server_settings": {"application_name": APPLICATION_NAME, **parameters},
        "statement_cache_size": STATEMENT_CACHE_SIZE,
    }


def session_settings(settings: DatabaseSettings) -> dict[str, str]:
    """What each session of the worker asks of PostgreSQL; times in milliseconds."""
    return {
        "statement_timeout": _milliseconds(settings.statement_timeout_s),
        "lock_timeout": _milliseconds(settings.lock_timeout_s),
        "idle_in_transaction_session_timeout": _milliseconds(settings.statement_timeout_s + COMMAND_TIMEOUT_MARGIN_S),
        # Transactions state both of these for themselves; so does what runs outside one.
        "default_transaction_isolation": "read committed",
        "synchronous_commit": "on",
        # Every query is short; compiling one would take longer than running it.
        "jit": "off",
        # The right plan is the same for every value: probe the index. Planned for its values, a batch of some
        # hundred ids may read a small table whole, and that plan goes on being used while the table grows.
        "plan_cache_mode": "force_generic_plan",
        # Nor because the table was empty when the plan was made: leases come and go.
        "enable_seqscan": "off",
    }


def _parameters(time_outs: TimeOuts) -> dict[str, str]:
    return {
        "lock_timeout": _milliseconds(time_outs.lock_s),
        "statement_timeout": _milliseconds(time_outs.statement_s),
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))
