"""The schema is made once, whole, and by the migrations of this version only."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

import sql
from sql import Migration
from sql.connection import Connection
from tests.conftest import database_settings
from tests.forked import forked_export_runs
from worker.database.errors import DatabaseRefused
from worker.database.gate import pending
from worker.database.migrations import migrate
from worker.settings import WorkerSettings

ONE = Migration(1, "one", "CREATE TABLE one (a integer)")
TWO = Migration(2, "two", "CREATE TABLE two (a integer); INSERT INTO two VALUES (1)")
UNIQUE_INDEX = Migration(
    2, "unique_index", "-- no transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS one_a ON one (a)"
)
INDEX_OF_RUNS = Migration(
    len(sql.migrations()) + 1,
    "index",
    "-- no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS runs_of_user ON export_runs (triggered_by)",
)


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[Connection]:
    """A connection to a database with nothing in it."""
    connection = await asyncpg.connect(empty_url)
    yield connection
    await connection.close()


async def tables(connection: Connection) -> set[str]:
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows}


async def applied(connection: Connection) -> list[tuple[int, str, str]]:
    rows = await connection.fetch("SELECT version, name, sha256 FROM export_runs_migrations ORDER BY version")
    return [tuple(row) for row in rows]


async def test_an_empty_database_gets_the_whole_schema(empty: Connection, empty_url: str) -> None:
    every = sql.migrations()
    assert await pending(empty, every) == every
    assert await migrate(database_settings(empty_url), every) == every
    assert await tables(empty) == {
        "claim_details",
        "claim_leases",
        "claim_overrides",
        "alerts",
        "double_exported_claims",
        "database_identity",
        "double_exports",
        "repeated_claims",
        "export_reversals",
        "claim_reversals",
        "reversal_grants",
        "respelled_claims",
        "export_run_claims",
        "export_run_events",
        "export_runs",
        "export_runs_migrations",
    }
    assert await applied(empty) == [(each.version, each.name, each.sha256) for each in every]
    assert await pending(empty, every) == []


async def test_a_repetition_does_nothing(empty: Connection, empty_url: str) -> None:
    settings = database_settings(empty_url)
    await migrate(settings, [ONE, TWO])
    before = await empty.fetch("TABLE export_runs_migrations")
    assert await migrate(settings, [ONE, TWO]) == []
    assert await empty.fetch("TABLE export_runs_migrations") == before


async def test_only_what_is_missing_is_applied(empty: Connection, empty_url: str) -> None:
    settings = database_settings(empty_url)
    await migrate(settings, [ONE])
    assert await pending(empty, [ONE, TWO]) == [TWO]
    assert await migrate(settings, [ONE, TWO]) == [TWO]
    assert await tables(empty) >= {"one", "two"}


async def test_of_four_at_once_one_migrates(empty: Connection, empty_url: str) -> None:
    """One of the migrations makes an index concurrently, which waits for every older snapshot."""
    every = [*sql.migrations(), INDEX_OF_RUNS]
    said: list[str] = []
    done = await asyncio.gather(*(migrate(database_settings(empty_url), every, said.append) for _ in range(4)))
    assert sorted(done, key=len) == [[], [], [], every]
    assert len(await applied(empty)) == len(every)
    assert "waiting for another `export-runs migrate`, or a `rebuild`" in said


async def test_an_edited_migration_is_refused(empty: Connection, empty_url: str) -> None:
    settings = database_settings(empty_url)
    await migrate(settings, [ONE])
    edited = Migration(1, "one", ONE.text + " ")
    for run in (migrate(settings, [edited, TWO]), pending(empty, [edited, TWO])):
        with pytest.raises(DatabaseRefused, match=r"0001 \(one\) was edited"):
            await run
    assert "two" not in await tables(empty)


async def test_one_newer_migration_is_put_up_with(empty: Connection, empty_url: str) -> None:
    """A version can be rolled back after the next one has migrated."""
    settings = database_settings(empty_url)
    await migrate(settings, [ONE, TWO])
    assert await pending(empty, [ONE]) == []
    before = await applied(empty)
    assert await migrate(settings, [ONE]) == []
    assert await applied(empty) == before


async def test_two_newer_migrations_are_refused(empty: Connection, empty_url: str) -> None:
    settings = database_settings(empty_url)
    await migrate(settings, [ONE, TWO, Migration(3, "three", "CREATE TABLE three (a integer)")])
    for run in (migrate(settings, [ONE]), pending(empty, [ONE])):
        with pytest.raises(DatabaseRefused, match="too new: this version does not know 2 applied migrations"):
            await run


@pytest.mark.parametrize("failing", ["CREATE TABLE three (a integer); SELECT 1 / 0", "no SQL", "SELECT 1; no SQL"])
async def test_a_migration_that_fails_leaves_those_before_it(empty: Connection, empty_url: str, failing: str) -> None:
    """Each has a transaction of its own."""
    settings = database_settings(empty_url)
    with pytest.raises(asyncpg.PostgresError):
        await migrate(settings, [ONE, TWO, Migration(3, "three", failing)])
    assert await tables(empty) == {"one", "two", "export_runs_migrations"}
    assert [version for version, _, _ in await applied(empty)] == [1, 2]
    mended = Migration(3, "three", "CREATE TABLE three (a integer)")
    assert await migrate(settings, [ONE, TWO, mended]) == [mended]


async def indexes(connection: Connection) -> dict[str, bool]:
    """The indexes of table one, and whether each is valid."""
    rows = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name, indisvalid FROM pg_index WHERE indrelid = 'one'::regclass"
    )
    return {row["name"]: row["indisvalid"] for row in rows}


async def test_statements_without_a_transaction(empty: Connection, empty_url: str) -> None:
    """None of the three can run in the transaction of the one before it."""
    colours = Migration(2, "colours", "CREATE TYPE colour AS ENUM ('red')")
    alone = Migration(
        3,
        "alone",
        "-- no transaction\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS one_a ON one (a); -- a comment; with a semicolon\n"
        "ALTER TYPE colour ADD VALUE IF NOT EXISTS 'blue'; ALTER TABLE one ADD COLUMN c colour DEFAULT 'blue';",
    )
    assert await migrate(database_settings(empty_url), [ONE, colours, alone]) == [ONE, colours, alone]
    assert await indexes(empty) == {"one_a": True}
    assert await empty.fetchval("INSERT INTO one DEFAULT VALUES RETURNING c") == "blue"


async def test_an_index_that_cannot_be_finished_leaves_nothing(empty: Connection, empty_url: str) -> None:
    """An invalid unique index would go on refusing rows."""
    settings = database_settings(empty_url)
    await migrate(settings, [ONE])
    await empty.execute("INSERT INTO one VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await migrate(settings, [ONE, UNIQUE_INDEX])
    assert await indexes(empty) == {}
    assert len(await applied(empty)) == 1
    await empty.execute("DELETE FROM one")
    assert await migrate(settings, [ONE, UNIQUE_INDEX]) == [UNIQUE_INDEX]
    assert await indexes(empty) == {"one_a": True}


async def test_an_index_that_a_crash_left_invalid_is_made_anew(empty: Connection, empty_url: str) -> None:
    settings = database_settings(empty_url)
    await migrate(settings, [ONE])
    await empty.execute("INSERT INTO one VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await empty.execute("CREATE UNIQUE INDEX CONCURRENTLY one_a ON one (a)")
    assert await indexes(empty) == {"one_a": False}
    await empty.execute("DELETE FROM one")
    said: list[str] = []
    assert await migrate(settings, [ONE, UNIQUE_INDEX], said.append) == [UNIQUE_INDEX]
    assert await indexes(empty) == {"one_a": True}
    assert "dropping index one_a, which was never finished" in said


async def not_repeatable(connection: Connection, migration: Migration) -> list[str]:
    """The statements outside a transaction that fail when they are repeated, as they are after a crash."""
    failing: list[str] = []
    for statement in [] if migration.in_transaction else migration.statements:
        try:
            await connection.execute(statement)
        except asyncpg.PostgresError:
            failing.append(statement)
    return failing


async def test_what_has_no_transaction_can_be_repeated(empty: Connection, empty_url: str) -> None:
    every = sql.migrations()
    unrepeatable = Migration(len(every) + 2, "value", "-- no transaction\nALTER TYPE run_status ADD VALUE 'lost'")
    planted = [*every, INDEX_OF_RUNS, unrepeatable]
    failing: list[str] = []
    for count, migration in enumerate(planted, 1):
        await migrate(database_settings(empty_url), planted[:count])
        failing += await not_repeatable(empty, migration)
    assert failing == unrepeatable.statements


async def schema_of(connection: Connection) -> set[str]:
    """All columns, checks, indexes and functions."""
    rows = await connection.fetch(
        "SELECT concat_ws(' ', table_name, column_name, data_type, column_default) AS part"
        " FROM information_schema.columns WHERE table_schema = 'public'"
        " UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid))"
        " FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
        " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
        " UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " AND prokind IN ('f', 'p')"
    )
    return {row["part"] for row in rows}


@pytest.mark.parametrize("name", [each.name for each in sql.migrations() if not each.in_transaction])
async def test_what_the_command_repeats_leaves_the_schema_of_today(
    connection: Connection, settings: WorkerSettings, name: str
) -> None:
    """A migration that later ones have changed would put back what was before them: reversals were refused then."""
    before = await schema_of(connection)
    finished = await forked_export_runs("migrate", "--repeat", name, settings=settings)
    assert finished.code in (0, 2), finished
    assert await schema_of(connection) == before


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("SELECT 1", encoding="utf-8")
    return folder


def test_migrations_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "0002_b.sql", "0001_c.sql", "0003_a_2.sql", "README.md")
    found = sql.migrations(folder)
    assert [(each.version, each.name) for each in found] == [(1, "c"), (2, "b"), (3, "a_2")]


@pytest.mark.parametrize(
    ("names", "culprit"),
    [
        pytest.param(["0002_a.sql"], "0002_a.sql", id="starts at 2"),
        pytest.param(["0000_a.sql"], "0000_a.sql", id="starts at 0"),
        pytest.param(["0001_a.sql", "0003_b.sql"], "0003_b.sql", id="gap"),
        pytest.param(["0001_a.sql", "0001_b.sql"], "0001_b.sql", id="number twice"),
        pytest.param(["1_a.sql"], "1_a.sql", id="short number"),
        pytest.param(["0001-a.sql"], "0001-a.sql", id="no underscore"),
        pytest.param(["0001_A.sql"], "0001_A.sql", id="upper case"),
        pytest.param(["0001_a.sql", "extra.sql"], "extra.sql", id="no number"),
    ],
)
def test_a_misnumbered_file_is_refused(tmp_path: Path, names: list[str], culprit: str) -> None:
    with pytest.raises(ValueError, match=rf"^{culprit}: expected 000[12]_<name>.sql$"):
        sql.migrations(folder_of(tmp_path, *names))
