"""Bring the database's schema up to date.

Forward only: a migration is applied once, whole, in order; what it did wrong, a later one mends.
"""

import asyncpg

import sql
from handlers.connection import Connection


class MigrationRefused(Exception):
    """The database does not match the migrations of this version; somebody has to look."""


async def migrate(connection: Connection, migrations: list[sql.Migration]) -> list[sql.Migration]:
    """Apply what is missing, all in one transaction; returns what was applied.

    Safe to run from several processes at once: they take turns. Raises MigrationRefused where an applied
    migration was edited, or is unknown here (the database is newer than this version).
    """
    async with connection.transaction():
        await connection.fetchrow(sql.query("lock_migrations"))
        await connection.execute(sql.query("create_migrations_table"))
        missing = await pending(connection, migrations)
        for migration in missing:
            await connection.execute(migration.statements)
            await connection.execute(sql.query("record_migration"), migration.version, migration.name, migration.sha256)
    return missing


async def pending(connection: Connection, migrations: list[sql.Migration]) -> list[sql.Migration]:
    """The migrations that the database still lacks. Raises MigrationRefused."""
    try:
        applied = await connection.fetch(sql.query("list_applied_migrations"))
    except asyncpg.UndefinedTableError:
        return migrations
    for row in applied:
        label = f"migration {row['version']:04} ({row['name']})"
        if row["version"] > len(migrations):
            raise MigrationRefused(f"{label} is applied, but unknown to this version")
        if row["sha256"] != migrations[row["version"] - 1].sha256:
            raise MigrationRefused(f"{label} was edited after it was applied")
    return migrations[len(applied) :]
