"""The schema is made once, whole, and by the migrations of this version only."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

import sql
from handlers.connection import Connection
from local.services import Services
from sql import Migration
from tests.conftest import with_database
from worker.migrations import MigrationRefused, migrate, pending

ONE = Migration(1, "one", "CREATE TABLE one (a integer)")
TWO = Migration(2, "two", "CREATE TABLE two (a integer); INSERT INTO two VALUES (1)")

Run = Callable[[Connection, list[Migration]], Awaitable[list[Migration]]]


@pytest.fixture
async def empty_url(running_services: Services) -> AsyncIterator[str]:
    """A database with nothing in it."""
    name = f"export_runs_test_{uuid4().hex}"
    admin = await asyncpg.connect(running_services.database_url)
    await admin.execute(f"CREATE DATABASE {name}")
    yield with_database(running_services.database_url, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


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


async def test_an_empty_database_gets_the_whole_schema(empty: Connection) -> None:
    every = sql.migrations()
    assert await pending(empty, every) == every
    assert await migrate(empty, every) == every
    assert await tables(empty) == {
        "claim_leases",
        "claim_overrides",
        "double_exports",
        "export_run_claims",
        "export_run_events",
        "export_runs",
        "export_runs_migrations",
    }
    assert await applied(empty) == [(each.version, each.name, each.sha256) for each in every]
    assert await pending(empty, every) == []


async def test_a_repetition_does_nothing(empty: Connection) -> None:
    await migrate(empty, [ONE, TWO])
    before = await empty.fetch("TABLE export_runs_migrations")
    assert await migrate(empty, [ONE, TWO]) == []
    assert await empty.fetch("TABLE export_runs_migrations") == before


async def test_only_what_is_missing_is_applied(empty: Connection) -> None:
    await migrate(empty, [ONE])
    assert await pending(empty, [ONE, TWO]) == [TWO]
    assert await migrate(empty, [ONE, TWO]) == [TWO]
    assert await tables(empty) >= {"one", "two"}


async def test_of_four_at_once_one_migrates(empty_url: str) -> None:
    every = sql.migrations()
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(4):
            connections.append(await asyncpg.connect(empty_url))
            stack.push_async_callback(connections[-1].close)
        done = await asyncio.gather(*(migrate(each, every) for each in connections))
        assert sorted(done, key=len) == [[], [], [], every]
        assert len(await applied(connections[0])) == len(every)


@pytest.mark.parametrize("run", [migrate, pending], ids=["migrating", "starting"])
async def test_an_edited_migration_is_refused(empty: Connection, run: Run) -> None:
    await migrate(empty, [ONE])
    edited = Migration(1, "one", ONE.statements + " ")
    with pytest.raises(MigrationRefused, match=r"0001 \(one\) was edited"):
        await run(empty, [edited, TWO])
    assert "two" not in await tables(empty)


@pytest.mark.parametrize("run", [migrate, pending], ids=["migrating", "starting"])
async def test_a_newer_database_is_refused(empty: Connection, run: Run) -> None:
    await migrate(empty, [ONE, TWO])
    with pytest.raises(MigrationRefused, match=r"0002 \(two\) is applied, but unknown"):
        await run(empty, [ONE])


async def test_a_migration_that_fails_leaves_nothing_behind(empty: Connection) -> None:
    failing = Migration(3, "three", "CREATE TABLE three (a integer); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty, [ONE, TWO, failing])
    assert await tables(empty) == set()


async def test_a_migration_that_fails_keeps_what_was_there(empty: Connection) -> None:
    await migrate(empty, [ONE])
    failing = Migration(3, "three", "no SQL")
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await migrate(empty, [ONE, TWO, failing])
    assert await tables(empty) == {"one", "export_runs_migrations"}
    assert await applied(empty) == [(1, "one", ONE.sha256)]
    assert await migrate(empty, [ONE, TWO]) == [TWO]


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
