"""What the errors that PostgreSQL really raises mean for a message."""

import asyncio
import socket
from collections.abc import Awaitable

import asyncpg
import pytest

from sql.connection import Connection, transaction
from worker.database.errors import Failure, is_lost_connection, meaning_of

UNAVAILABLE, INTERRUPTED, UNSTORABLE, BUG = Failure


async def error_of(work: Awaitable[object]) -> Exception:
    """The exception that a piece of work raises."""
    [error] = await asyncio.gather(work, return_exceptions=True)
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize(
    ("statement", "arguments", "meaning"),
    [
        pytest.param("SELECT $1::text", ["a\x00"], UNSTORABLE, id="NUL"),
        pytest.param("SELECT $1::integer", [2**40], UNSTORABLE, id="asyncpg cannot encode"),
        pytest.param("SELECT $1::text", ["\ud800"], UNSTORABLE, id="lone surrogate"),
        pytest.param("SELECT $1::text::json", ["{"], UNSTORABLE, id="not JSON"),
        pytest.param("SELECT repeat('[', 1000000)::json", [], UNSTORABLE, id="nested too deep"),
        pytest.param("SELECT 1 / $1::integer", [0], UNSTORABLE, id="division by zero"),
        pytest.param("SELECT pg_sleep(20)", [], INTERRUPTED, id="statement time-out"),
        pytest.param("SELECT pg_terminate_backend(pg_backend_pid())", [], UNAVAILABLE, id="terminated"),
        pytest.param("SELECT * FROM no_such_table", [], UNAVAILABLE, id="not migrated at all"),
        pytest.param("SELECT no_such_column FROM export_runs", [], UNAVAILABLE, id="not migrated yet"),
        pytest.param("DELETE FROM export_run_events", [], UNAVAILABLE, id="no privilege"),
    ],
)
async def test_an_error_of_a_statement_has_a_meaning(
    connection: Connection, statement: str, arguments: list[object], meaning: Failure
) -> None:
    await connection.execute("SET statement_timeout = '100ms'")
    assert meaning_of(await error_of(connection.fetch(statement, *arguments))) is meaning


async def test_a_lock_time_out_is_an_interruption(database_url: str, connection: Connection) -> None:
    other = await asyncpg.connect(database_url, server_settings={"lock_timeout": "50ms"})
    try:
        async with connection.transaction():
            await connection.execute("LOCK export_runs")
            assert meaning_of(await error_of(other.fetch("TABLE export_runs"))) is INTERRUPTED
    finally:
        await other.close()


@pytest.mark.parametrize(
    ("setting", "statement", "pause_s", "meaning"),
    [
        pytest.param("transaction_timeout", "SELECT pg_sleep(20)", 0, INTERRUPTED, id="transaction time-out"),
        pytest.param("idle_in_transaction_session_timeout", "SELECT 1", 0.5, UNAVAILABLE, id="idle for too long"),
        pytest.param("lock_timeout", "SELECT pg_terminate_backend(pg_backend_pid())", 0, UNAVAILABLE, id="terminated"),
    ],
)
async def test_the_end_of_a_connection_in_a_transaction_has_the_meaning_that_postgresql_gives_it(
    connection: Connection, setting: str, statement: str, pause_s: float, meaning: Failure
) -> None:
    if not await connection.fetchval("SELECT count(*) FROM pg_settings WHERE name = $1", setting):
        pytest.skip("this version of PostgreSQL has no such time-out")
    await connection.execute(f"SET {setting} = '100ms'")

    async def work() -> None:
        async with transaction(connection):
            await asyncio.sleep(pause_s)
            await connection.fetch(statement)

    error = await error_of(work())
    assert meaning_of(error) is meaning
    assert is_lost_connection(error)


async def test_a_deadlock_is_an_interruption(database_url: str, connection: Connection) -> None:
    other = await asyncpg.connect(database_url)
    try:
        for each in (connection, other):
            await each.execute("BEGIN; SET LOCAL deadlock_timeout = '50ms'")
        await connection.execute("SELECT pg_advisory_xact_lock(1)")
        await other.execute("SELECT pg_advisory_xact_lock(2)")
        results = await asyncio.gather(
            connection.execute("SELECT pg_advisory_xact_lock(2)"),
            other.execute("SELECT pg_advisory_xact_lock(1)"),
            return_exceptions=True,
        )
        [victim] = [each for each in results if isinstance(each, BaseException)]
        assert meaning_of(victim) is INTERRUPTED
    finally:
        await other.close()


async def test_a_server_that_does_not_listen_is_unavailable() -> None:
    with socket.socket() as port:  # bound, but not listening
        port.bind(("127.0.0.1", 0))
        url = f"postgresql://me:secret@127.0.0.1:{port.getsockname()[1]}/runs"
        error = await error_of(asyncpg.connect(url, timeout=5))
    assert meaning_of(error) is UNAVAILABLE
