"""What must hold of a database before a worker uses it: its schema, and what each session asks of PostgreSQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

import sql
from schema.fields import counted
from sql.connection import Connection
from worker.database.errors import DatabaseRefused

NEWER_MIGRATIONS_MAX: Final = 1
"""So many migrations that this version does not know may be applied: those of the next version."""

POOLER_ERRORS: Final = (
    asyncpg.ProtocolViolationError,  # it takes no parameters when a session starts
    asyncpg.InvalidSQLStatementNameError,  # it lends another session, which lacks our prepared statements
    asyncpg.DuplicatePreparedStatementError,  # or one that has another client's
)
"""What tells that a session is not ours alone."""

POOLER_ADVICE: Final = (
    "where a pooler such as pgbouncer stands before PostgreSQL, set EXPORT_RUNS_TRANSACTION_POOLING=true, run "
    "`export-runs migrate` as the worker's role with a URL that leads to PostgreSQL itself, then RECONNECT in "
    "pgbouncer's console"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """What a worker of this version needs of the database."""

    migrations: Sequence[sql.Migration]
    session_settings: Mapping[str, str]

    async def check(self, connection: Connection) -> None:
        """Raise DatabaseRefused unless the schema fits, and the session has the settings."""
        try:
            missing = await pending(connection, self.migrations)
            differing = await differing_settings(connection, self.session_settings)
            is_copy = not missing and await connection.fetchval(sql.query("is_restored_copy"))
        except POOLER_ERRORS as error:
            raise DatabaseRefused(f"the session is not the worker's own ({error}): {POOLER_ADVICE}") from None
        if missing:
            raise DatabaseRefused(
                f"{counted(len(missing), 'migration is', 'migrations are')} missing: run `export-runs migrate` first"
            )
        if is_copy:
            raise DatabaseRefused("the database was restored from a backup: run `export-runs after-restore` first")
        if differing:
            raise DatabaseRefused(f"sessions of the database have {', '.join(differing)}: {POOLER_ADVICE}")


async def pending(connection: Connection, migrations: Sequence[sql.Migration]) -> list[sql.Migration]:
    """The migrations that the database still lacks.

    Raises DatabaseRefused where an applied migration was edited, or where more than NEWER_MIGRATIONS_MAX applied ones
    are unknown here.
    """
    try:
        applied = await connection.fetch(sql.query("list_applied_migrations"))
    except asyncpg.UndefinedTableError:
        return list(migrations)
    known = [row for row in applied if row["version"] <= len(migrations)]
    for row in known:
        migration = migrations[row["version"] - 1]
        if row["sha256"] != migration.sha256:
            raise DatabaseRefused(f"{migration} was edited after it was applied")
    newer = len(applied) - len(known)
    if newer > NEWER_MIGRATIONS_MAX:
        raise DatabaseRefused(
            f"the database is too new: this version does not know {counted(newer, 'applied migration')}, and a version "
            "runs on its own schema or the next version's; run a newer version"
        )
    return list(migrations[len(known) :])


async def differing_settings(connection: Connection, wanted: Mapping[str, str]) -> list[str]:
    """The settings of a session that are not as wanted, each as `name = value`. Times are in milliseconds."""
    rows = await connection.fetch(sql.query("list_settings"), list(wanted))
    return [f"{row['name']} = {row['setting']}" for row in rows if row["setting"] != wanted[row["name"]]]
