"""What an error means for a message, how long is waited then, and what is logged of it."""

import asyncio
import random
import socket
from collections.abc import Awaitable
from itertools import islice

import asyncpg
import pytest

from handlers.connection import Connection
from handlers.errors import RequestRefused
from schema.errors import ErrorCode
from worker.backoff import BACKOFF_FIRST_S, BACKOFF_MAX_S, delays_s
from worker.database import Failure, meaning_of
from worker.logs import describe

SECRET = "claim-4711"

UNAVAILABLE, UNSTORABLE, BUG = Failure.UNAVAILABLE, Failure.UNSTORABLE, Failure.BUG


def postgres_error(sqlstate: str) -> asyncpg.PostgresError:
    """The exception that asyncpg raises for an error with this code."""
    error = asyncpg.PostgresError.new({"S": "ERROR", "C": sqlstate, "M": SECRET, "D": SECRET})
    assert isinstance(error, asyncpg.PostgresError)
    return error


@pytest.mark.parametrize(
    ("sqlstate", "meaning"),
    [
        pytest.param("08006", UNAVAILABLE, id="connection failure"),
        pytest.param("08P01", UNAVAILABLE, id="protocol violation"),
        pytest.param("25006", UNAVAILABLE, id="read only: a standby"),
        pytest.param("28P01", UNAVAILABLE, id="password changed"),
        pytest.param("3D000", UNAVAILABLE, id="database missing"),
        pytest.param("40001", UNAVAILABLE, id="serialisation failure"),
        pytest.param("40P01", UNAVAILABLE, id="deadlock"),
        pytest.param("42501", UNAVAILABLE, id="privilege withdrawn"),
        pytest.param("42703", UNAVAILABLE, id="column missing"),
        pytest.param("42P01", UNAVAILABLE, id="not migrated yet"),
        pytest.param("53100", UNAVAILABLE, id="disk full"),
        pytest.param("53200", UNAVAILABLE, id="out of memory"),
        pytest.param("53300", UNAVAILABLE, id="too many connections"),
        pytest.param("55P03", UNAVAILABLE, id="lock time-out"),
        pytest.param("57014", UNAVAILABLE, id="statement time-out"),
        pytest.param("57P01", UNAVAILABLE, id="admin shutdown"),
        pytest.param("57P02", UNAVAILABLE, id="crash shutdown"),
        pytest.param("57P03", UNAVAILABLE, id="starting up"),
        pytest.param("58030", UNAVAILABLE, id="input/output error"),
        pytest.param("21000", UNSTORABLE, id="cardinality violation"),
        pytest.param("22001", UNSTORABLE, id="text too long"),
        pytest.param("22003", UNSTORABLE, id="number out of range"),
        pytest.param("22021", UNSTORABLE, id="NUL in a text"),
        pytest.param("22P02", UNSTORABLE, id="not a uuid"),
        pytest.param("22P05", UNSTORABLE, id="no such character in the encoding"),
        pytest.param("23502", UNSTORABLE, id="not null"),
        pytest.param("23505", UNSTORABLE, id="unique"),
        pytest.param("23514", UNSTORABLE, id="check"),
        pytest.param("54000", UNSTORABLE, id="index row too large"),
        pytest.param("54001", UNSTORABLE, id="nested too deep"),
        pytest.param("42601", BUG, id="syntax error"),
        pytest.param("25P02", BUG, id="transaction aborted"),
        pytest.param("25001", BUG, id="transaction active"),
        pytest.param("0A000", BUG, id="not supported"),
        pytest.param("P0001", BUG, id="raised by a function"),
        pytest.param("XX000", BUG, id="internal error"),
        pytest.param("XX001", BUG, id="data corrupted"),
    ],
)
def test_a_sqlstate_has_a_meaning(sqlstate: str, meaning: Failure) -> None:
    error = postgres_error(sqlstate)
    assert error.sqlstate == sqlstate
    assert meaning_of(error) is meaning


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        pytest.param(asyncpg.InterfaceError("connection is closed"), UNAVAILABLE, id="closed"),
        pytest.param(asyncpg.InternalClientError("unexpected"), UNAVAILABLE, id="asyncpg confused"),
        pytest.param(asyncpg.ConnectionDoesNotExistError("closed"), UNAVAILABLE, id="closed meanwhile"),
        pytest.param(asyncpg.CannotConnectNowError("starting up"), UNAVAILABLE, id="starting up"),
        pytest.param(asyncpg.TooManyConnectionsError("no"), UNAVAILABLE, id="too many connections"),
        pytest.param(asyncpg.exceptions.DataError("invalid input"), UNSTORABLE, id="cannot be encoded"),
        pytest.param(TimeoutError(), UNAVAILABLE, id="time-out"),
        pytest.param(ConnectionResetError(), UNAVAILABLE, id="reset"),
        pytest.param(socket.gaierror("no such host"), UNAVAILABLE, id="no such host"),
        pytest.param(ValueError("x"), BUG, id="ValueError"),
        pytest.param(KeyError("x"), BUG, id="KeyError"),
        pytest.param(AssertionError(), BUG, id="AssertionError"),
        pytest.param(RequestRefused(ErrorCode.CONFLICT, "no"), BUG, id="no matter of the database"),
    ],
)
def test_an_exception_has_a_meaning(error: Exception, meaning: Failure) -> None:
    assert meaning_of(error) is meaning


async def met(work: Awaitable[object]) -> Exception:
    """The exception that a piece of work meets."""
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
        pytest.param("SELECT pg_sleep(20)", [], UNAVAILABLE, id="statement time-out"),
        pytest.param("SELECT pg_terminate_backend(pg_backend_pid())", [], UNAVAILABLE, id="terminated"),
        pytest.param("SELECT * FROM no_such_table", [], UNAVAILABLE, id="not migrated at all"),
        pytest.param("SELECT no_such_column FROM export_runs", [], UNAVAILABLE, id="not migrated yet"),
        pytest.param("DELETE FROM export_run_events", [], UNAVAILABLE, id="no privilege"),
    ],
)
async def test_what_postgresql_really_raises(
    connection: Connection, statement: str, arguments: list[object], meaning: Failure
) -> None:
    await connection.execute("SET statement_timeout = '100ms'")
    assert meaning_of(await met(connection.fetch(statement, *arguments))) is meaning


async def test_a_lock_that_is_not_released_in_time(database_url: str, connection: Connection) -> None:
    other = await asyncpg.connect(database_url, server_settings={"lock_timeout": "50ms"})
    try:
        async with connection.transaction():
            await connection.execute("LOCK export_runs")
            assert meaning_of(await met(other.fetch("TABLE export_runs"))) is UNAVAILABLE
    finally:
        await other.close()


async def test_a_deadlock(database_url: str, connection: Connection) -> None:
    other = await asyncpg.connect(database_url)
    try:
        for each in (connection, other):
            await each.execute("BEGIN; SET LOCAL deadlock_timeout = '50ms'")
        await connection.execute("SELECT pg_advisory_xact_lock(1)")
        await other.execute("SELECT pg_advisory_xact_lock(2)")
        met_by = await asyncio.gather(
            connection.execute("SELECT pg_advisory_xact_lock(2)"),
            other.execute("SELECT pg_advisory_xact_lock(1)"),
            return_exceptions=True,
        )
        [victim] = [each for each in met_by if isinstance(each, BaseException)]
        assert meaning_of(victim) is UNAVAILABLE
    finally:
        await other.close()


async def test_a_server_that_is_away() -> None:
    with socket.socket() as taken:  # bound, and never listening
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://me:{SECRET}@127.0.0.1:{taken.getsockname()[1]}/runs"
        error = await met(asyncpg.connect(url, timeout=5))
    assert meaning_of(error) is UNAVAILABLE


@pytest.mark.parametrize("seed", range(5))
def test_delays_double_up_to_a_cap(seed: int) -> None:
    random.seed(seed)
    step_s = BACKOFF_FIRST_S
    for delay_s in islice(delays_s(), 50):
        assert step_s / 2 <= delay_s <= step_s
        step_s = min(step_s * 2, BACKOFF_MAX_S)


def test_delays_differ() -> None:
    """Workers that lost the same server do not come back together."""
    assert len({tuple(islice(delays_s(), 3)) for _ in range(10)}) == 10


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(postgres_error("23514"), id="database"),
        pytest.param(asyncpg.InterfaceError(SECRET, detail=SECRET), id="asyncpg"),
        pytest.param(ValueError(SECRET), id="value"),
        pytest.param(ExceptionGroup(SECRET, [KeyError(SECRET)]), id="group"),
        pytest.param(OSError(111, SECRET), id="system"),
    ],
)
def test_a_log_line_never_has_the_text_of_an_error(error: Exception) -> None:
    try:
        try:
            raise RuntimeError(SECRET)
        except RuntimeError as cause:
            raise error from cause
    except type(error) as raised:
        described = describe(raised)
    assert SECRET not in str(described)
    assert described["error"] == type(error).__name__
    assert described["at"].startswith("test_database_errors.py:")


def test_a_log_line_has_the_sqlstate() -> None:
    assert describe(postgres_error("23514")) == {"error": "CheckViolationError", "sqlstate": "23514"}
