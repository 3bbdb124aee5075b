"""The tables that follow from the log, as they are in the catalog: to make them again beside the stored ones, for a
comparison, or in their place.

What is done with a table follows from its columns and indexes, so a new column or table is taken along by itself.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from asyncpg import Record

import sql

from .connection import Connection, snapshot, transaction

LOG: Final = "export_run_events"

NOT_REPLAYED: Final = (
    LOG,
    "export_runs_migrations",
    "database_identity",
    "double_exports",
    "respelled_claims",
)
"""The log itself; what is known of the database; a table that only workers of an earlier version write to; and what a
migration did."""

LOCKED_FIRST: Final = "export_run_claims"
"""Most transactions come to it first. So they hold no other table when they wait for it, and no circle is closed."""

SCHEMA: Final = "export_runs_rebuild"
"""Where the tables of a rebuild are, until they take the place of the stored ones."""

OUTSIDE: Final = ("alerts", "claim_leases")
"""The log does not say which alerts RabbitMQ has confirmed, nor who has leased a claim: replayed tables of these names
are made, so that the stored ones are left alone, but they are neither compared nor exchanged."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a stored table is compared with the temporary table of its name."""

    table: str
    key_columns: Sequence[str]
    is_found_by_run: bool
    """Rows are found by their runs. The others are found by their organisation."""

    _comparison: str
    _count: str
    _runs: str

    async def differing_rows(
        self, connection: Connection, first_org_id: str, last_org_id: str, limit: int
    ) -> list[Record]:
        """The rows of some organisations that differ, as JSON: `expected` and `actual`; and the number of all."""
        rows: list[Record] = await connection.fetch(self._comparison, first_org_id, last_org_id, limit)
        return rows

    async def count_rows(self, connection: Connection) -> int:
        """The number of rows in the temporary table."""
        count: int = await connection.fetchval(self._count)
        return count

    async def check_runs(self, connection: Connection, above: UUID, limit: int) -> list[Record]:
        """The next runs that the stored table has rows of, and whether nothing else knows them (`is_unknown`)."""
        rows: list[Record] = await connection.fetch(self._runs, above, limit)
        return rows


@dataclass(frozen=True, slots=True)
class StoredTables:
    """The tables that a replay of the log writes to, by their names, and the schema that they are in."""

    schema: str
    replayed: Sequence[str]

    @property
    def compared(self) -> Sequence[str]:
        """Those that follow from the log alone."""
        return [name for name in self.replayed if name not in OUTSIDE]

    async def lock(self, connection: Connection, mode: str) -> None:
        """Lock those that follow from the log until the transaction ends, in a mode of PostgreSQL."""
        await _lock(connection, self.schema, self.compared, mode)

    @asynccontextmanager
    async def snapshot(self, connection: Connection) -> AsyncIterator[None]:
        """Run what is inside as one transaction that sees those that follow from the log at one moment.

        They are locked before the moment is chosen. Otherwise whoever waited for the end of a rebuild would see the new
        tables as they were before it, without the rows that came last.
        """
        statement = await _lock_statement(connection, self.schema, self.compared, "ACCESS SHARE")
        async with snapshot(connection):
            await connection.execute(statement)  # of all statements only this one chooses no moment
            yield

    async def analyze_temporary_tables(self, connection: Connection) -> None:
        """Let PostgreSQL look at the temporary tables of these names, so that its plans for them are right."""
        await connection.execute(await connection.fetchval(sql.query("analyze_replayed_tables"), self.replayed))

    async def lock_log(self, connection: Connection, mode: str) -> None:
        """Lock the log until the transaction ends, in a mode of PostgreSQL."""
        await _lock(connection, self.schema, [LOG], mode)


async def _lock(connection: Connection, schema: str, tables: Sequence[str], mode: str) -> None:
    await connection.execute(await _lock_statement(connection, schema, tables, mode))


async def _lock_statement(connection: Connection, schema: str, tables: Sequence[str], mode: str) -> str:
    in_order = sorted(tables, key=lambda name: (name != LOCKED_FIRST, name))
    statement: str = await connection.fetchval(sql.query("lock_tables"), schema, in_order, mode)
    return statement


async def find_stored_tables(connection: Connection) -> StoredTables:
    """The tables in the schema that this connection looks in first."""
    schema = await connection.fetchval(sql.query("get_schema"))
    rows = await connection.fetch(sql.query("list_tables"), schema, NOT_REPLAYED)
    return StoredTables(schema, [row["name"] for row in rows])


async def make_temporary_tables(
    connection: Connection, stored: StoredTables, clock_columns: Sequence[str], tolerance_s: int
) -> list[Comparison]:
    """Make empty temporary tables, which this connection finds in place of the stored ones; returns how to compare.

    They are empty again after each transaction. The times in `clock_columns` may differ by `tolerance_s`.
    """
    comparisons: list[Comparison] = []
    async with transaction(connection):
        for name in stored.replayed:
            if name in stored.compared:
                comparisons.append(await _comparison(connection, stored.schema, name, clock_columns, tolerance_s))
            await connection.execute(await connection.fetchval(sql.query("make_temporary_table"), stored.schema, name))
    return comparisons


async def _comparison(
    connection: Connection, schema: str, name: str, clock_columns: Sequence[str], tolerance_s: int
) -> Comparison:
    row = await connection.fetchrow(sql.query("compare_table"), schema, name, clock_columns, tolerance_s)
    assert row is not None
    return Comparison(
        table=name,
        key_columns=row["key_columns"],
        is_found_by_run=row["found_by"] == "run",
        _comparison=row["comparison"],
        _count=row["count_of_rows"],
        _runs=row["runs_unknown"],
    )


@asynccontextmanager
async def rebuilt_tables(connection: Connection, stored: StoredTables) -> AsyncIterator["RebuiltTables"]:
    """Empty tables in a schema of their own, which this connection finds in place of the stored ones from now on.

    One that an earlier rebuild has left is dropped first. What is still in it at the end is dropped, too.
    """
    rebuilt = RebuiltTables(connection, stored)
    await rebuilt.make()
    try:
        yield rebuilt
    finally:
        if not connection.is_closed():
            await rebuilt.drop()


class RebuiltTables:
    """Tables like the stored ones, in a schema of their own."""

    def __init__(self, connection: Connection, stored: StoredTables) -> None:
        self._connection = connection
        self._stored = stored

    async def make(self) -> None:
        """Make them, empty, and let the connection find them first."""
        async with transaction(self._connection):
            await self._drop()
            await self._connection.execute(sql.query("make_rebuilt_schema"))
            for name in self._stored.replayed:
                await self._execute_each(sql.query("make_rebuilt_table"), self._stored.schema, name)
        await self._connection.execute(sql.query("look_in_rebuilt_schema_first"))

    async def drop(self) -> None:
        """Drop those that there are, and their schema."""
        async with transaction(self._connection):
            await self._drop()

    async def vacuum(self) -> None:
        """Let PostgreSQL look at them, so that its plans for them are right from the first query on."""
        await self._connection.execute(
            await self._connection.fetchval(sql.query("vacuum_rebuilt_tables"), self._stored.compared)
        )

    async def lock(self, mode: str) -> None:
        """Lock them until the transaction ends, in a mode of PostgreSQL."""
        await _lock(self._connection, SCHEMA, self._stored.compared, mode)

    async def exchange(self) -> None:
        """Drop the stored tables, which the caller has locked, and put these in their place, inside its transaction."""
        await self._execute_each(sql.query("exchange_tables"), self._stored.schema, self._stored.compared)

    async def _drop(self) -> None:
        await self._execute_each(sql.query("drop_rebuilt_schema"), self._stored.replayed)

    async def _execute_each(self, query: str, *arguments: object) -> None:
        for row in await self._connection.fetch(query, *arguments):
            await self._connection.execute(row["statement"])
