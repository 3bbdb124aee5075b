"""Bring the database's schema up to date while workers go on.

Forward only: a migration is applied once, in order; what it did wrong, a later one mends. Each migration has a
transaction of its own. One whose file begins with `-- no transaction` has none: its statements are committed one by
one, and repeated from the first on where a run of it was cut short.

A version runs on its own schema and on that of the next version. So versions can be rolled forward and back: first
`migrate`, then one worker after the other.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

import sql
from sql.connection import Connection, transaction
from worker.database.gate import pending
from worker.database.pool import direct_connection, session_settings
from worker.retries import delays_s
from worker.settings import DatabaseSettings

TURN_INTERVAL_S: Final = 0.5
"""How often a command asks whether it is its turn, while another one migrates."""

_INDEX: Final = re.compile(r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+IF\s+NOT\s+EXISTS\s+(\w+)", re.IGNORECASE)
_CONCURRENTLY: Final = re.compile(r"\bCONCURRENTLY\b", re.IGNORECASE)

REPEATABLE: Final = ("canonical_claim_ids",)
"""Migrations that can be applied once more to the schema of today, by their names. Any other one would put back what
later ones have changed."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationLimits:
    """How long a migration waits for others, and others for it."""

    lock_timeout_s: float = 0.5
    """A statement that waits longer for a lock is tried again later. While it waits for a table, every reader and
    writer of that table waits behind it."""

    retry_delay_first_s: float = 0.5
    retry_delay_max_s: float = 5.0
    """Between two attempts: the others go on meanwhile. Twice as long each time."""

    wait_max_s: float = 3600
    """When no attempt began to succeed for so long, the command ends. What it has applied stays applied."""

    @property
    def observe_interval_s(self) -> float:
        """How often the command looks who holds up its statement."""
        return self.lock_timeout_s / 2


DEFAULT_LIMITS: Final = MigrationLimits()


class MigrationHeldUp(Exception):
    """What a migration waited for did not end in time. Nothing is broken: the command can be repeated."""


async def migrate(
    settings: DatabaseSettings,
    migrations: Sequence[sql.Migration],
    say: Say = lambda _: None,
    limits: MigrationLimits = DEFAULT_LIMITS,
    repeat: str | None = None,
) -> list[sql.Migration]:
    """Apply what is missing; returns what was applied. `say` is told each migration, what it waits for, and what it
    has to say itself. With `repeat`, the migration of this name, one of REPEATABLE, is applied once more.

    Safe to run from several processes at once, which take turns, and to repeat after a crash or an error. Raises
    DatabaseRefused (see `pending`) and where a pooler stands before PostgreSQL, and MigrationHeldUp when others were in
    the way for `limits.wait_max_s`.

    The roles of the service, where there are some, may do with the tables afterwards what they should; see `grant`.
    Where the worker's sessions come from a pooler, its settings are made the defaults of this role in this database.
    """
    parameters = {
        "lock_timeout": _milliseconds(limits.lock_timeout_s),
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
    }
    async with direct_connection(settings, parameters) as connection, direct_connection(settings, {}) as observing:
        await _take_turn(connection, say, limits)
        connection.add_log_listener(lambda _, message: _say_notice(message, say))
        missing = await pending(connection, migrations)
        if missing:
            await connection.execute(sql.query("create_migrations_table"))
        for migration in missing:
            say(f"applying {migration}")
            await _Application(migration, connection, observing, say, limits).run()
        for migration in migrations:
            if migration.name == repeat and migration not in missing:
                say(f"repeating {migration}")
                await _Application(migration, connection, observing, say, limits).repeat()
        await grant(connection)
        if settings.transaction_pooling:
            await _set_for_role(connection, session_settings(settings), say)
    return missing


async def grant(connection: Connection) -> None:
    """Let the roles of the service do what they should with the tables of this role, and nothing else.

    The workers of the version before go on while a table is made, and a trigger may write to it at once: so this
    follows each step, not only the last.
    """
    for row in await connection.fetch(sql.query("list_changes_of_grants")):
        await connection.execute(row["statement"])


async def _set_for_role(connection: Connection, parameters: Mapping[str, str], say: Say) -> None:
    async with transaction(connection):
        for name, value in parameters.items():
            statement = await connection.fetchval(sql.query("set_for_role"), name, value)
            await connection.execute(statement)
    say("the worker's settings are those of this role in this database now; sessions that were there keep the old ones")


async def _take_turn(connection: Connection, say: Say, limits: MigrationLimits) -> None:
    """Get the lock that lets one process migrate at a time. It is kept until the connection is closed.

    It is asked for repeatedly. A session that waits for it inside PostgreSQL would keep a snapshot, and whoever
    holds it and makes an index concurrently waits until all older snapshots are gone.
    """
    waits_until = asyncio.get_running_loop().time() + limits.wait_max_s
    waiting = False
    while not await connection.fetchval(sql.query("try_lock_migrations")):
        if not waiting:
            waiting = True
            say("waiting for another `export-runs migrate`, or a `rebuild`")
        if asyncio.get_running_loop().time() > waits_until:
            raise MigrationHeldUp(
                "another `export-runs migrate`, or a `rebuild`, does not end; repeat the command when it has"
            )
        await asyncio.sleep(TURN_INTERVAL_S)


class _Application:
    """One migration being applied on one connection, while another connection looks what holds it up."""

    def __init__(
        self,
        migration: sql.Migration,
        connection: Connection,
        observing: Connection,
        say: Say,
        limits: MigrationLimits,
    ) -> None:
        self._migration = migration
        self._connection = connection
        self._observing = observing
        self._say = say
        self._limits = limits
        self._blockers: list[int] = []

    async def run(self) -> None:
        """Apply the migration and record that it is applied. Raises MigrationHeldUp."""
        if self._migration.in_transaction:
            await self._until_locked(self._apply_whole)
            return
        await self.repeat()
        await self._record()

    async def repeat(self) -> None:
        """Apply the statements one by one. Each of them does nothing where it is done already."""
        assert not self._migration.in_transaction
        for statement in self._migration.statements:
            await self._apply_alone(statement)

    async def _apply_whole(self) -> None:
        async with transaction(self._connection):
            for statement in self._migration.statements:
                await self._connection.execute(statement)
            await grant(self._connection)
            await self._record()

    async def _apply_alone(self, statement: str) -> None:
        """Apply a statement outside any transaction.

        An index that an earlier attempt left invalid is dropped first, and one that this attempt leaves invalid
        afterwards: a unique one would go on refusing rows.
        """
        concurrent = _CONCURRENTLY.search(statement) is not None
        index = _INDEX.search(statement)
        if concurrent:  # it waits for old transactions, and nobody waits behind it
            await self._set_lock_timeout(0)
        if index:
            await self._drop_if_invalid(index[1])
        try:
            await self._until_locked(lambda: self._connection.execute(statement))
        except asyncpg.PostgresError:
            if index and not self._connection.is_closed():
                await self._drop_if_invalid(index[1])
            raise
        if concurrent:
            await self._set_lock_timeout(self._limits.lock_timeout_s)
        await grant(self._connection)

    async def _drop_if_invalid(self, index: str) -> None:
        statement = await self._connection.fetchval(sql.query("drop_invalid_index"), index.lower())
        if statement is not None:
            self._say(f"dropping index {index}, which was never finished")
            await self._until_locked(lambda: self._connection.execute(statement))

    async def _set_lock_timeout(self, timeout_s: float) -> None:
        await self._connection.execute(sql.query("set_lock_timeout"), _milliseconds(timeout_s))

    async def _record(self) -> None:
        migration = self._migration
        await self._connection.execute(
            sql.query("record_migration"), migration.version, migration.name, migration.sha256
        )

    async def _until_locked(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Repeat an attempt until it gets its locks. Raises MigrationHeldUp."""
        waits_until = asyncio.get_running_loop().time() + self._limits.wait_max_s
        for delay_s in delays_s(self._limits.retry_delay_first_s, self._limits.retry_delay_max_s):
            try:
                await self._observed(attempt)
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if asyncio.get_running_loop().time() + delay_s > waits_until:
                    text = f"{self._migration} got no lock for {self._limits.wait_max_s:g} s; repeat the command later"
                    raise MigrationHeldUp(text) from None
                await asyncio.sleep(delay_s)

    async def _observed(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Make an attempt, and say meanwhile what it waits for."""
        work = asyncio.ensure_future(attempt())
        try:
            while not (await asyncio.wait({work}, timeout=self._limits.observe_interval_s))[0]:
                await self._say_what_holds_up()
            await work
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    async def _say_what_holds_up(self) -> None:
        rows = await self._observing.fetch(sql.query("list_blockers"), self._connection.get_server_pid())
        blockers = [row["pid"] for row in rows]
        if blockers and blockers != self._blockers:
            self._blockers = blockers
            self._say(f"{self._migration} waits for {', '.join(map(_session, rows))}")


def _say_notice(message: asyncpg.PostgresLogMessage, say: Say) -> None:
    """Pass on what a migration raises as a notice. PostgreSQL's own notices have another SQLSTATE."""
    if message.severity_en == "NOTICE" and message.sqlstate == "00000":
        say(str(message.message))


def _session(row: asyncpg.Record) -> str:
    """A session for a person: what another user's session does may be hidden from us."""
    what = [row["application_name"] or row["backend_type"], row["state"]]
    if row["transaction_age_s"] is not None:
        what.append(f"its transaction is {row['transaction_age_s']:.0f} s old")
    return f"process {row['pid']} ({', '.join(filter(None, what)) or 'hidden'})"


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
