"""What an error means for a message, how long the worker then waits, and what it logs."""

import random
import socket
from itertools import islice

import asyncpg
import pytest

from handlers.errors import RequestRefused
from schema.errors import ErrorCode
from sql.connection import NotReplicated
from tests.unit.postgres_errors import SECRET, postgres_error
from worker.database.errors import Failure, meaning_of
from worker.logs import describe
from worker.retries import delays_s

UNAVAILABLE, INTERRUPTED, UNSTORABLE, BUG = Failure

DELAY_FIRST_S = 0.1
DELAY_MAX_S = 5.0


@pytest.mark.parametrize(
    ("sqlstate", "meaning"),
    [
        pytest.param("08006", UNAVAILABLE, id="connection failure"),
        pytest.param("08P01", UNAVAILABLE, id="protocol violation"),
        pytest.param("25006", UNAVAILABLE, id="read only: a standby"),
        pytest.param("25P03", INTERRUPTED, id="idle in a transaction for too long"),
        pytest.param("25P04", INTERRUPTED, id="transaction time-out"),
        pytest.param("28P01", UNAVAILABLE, id="password changed"),
        pytest.param("3D000", UNAVAILABLE, id="database missing"),
        pytest.param("40001", INTERRUPTED, id="serialisation failure"),
        pytest.param("40P01", INTERRUPTED, id="deadlock"),
        pytest.param("42501", UNAVAILABLE, id="privilege withdrawn"),
        pytest.param("42703", UNAVAILABLE, id="column missing"),
        pytest.param("42P01", UNAVAILABLE, id="not migrated yet"),
        pytest.param("53100", UNAVAILABLE, id="disk full"),
        pytest.param("53200", INTERRUPTED, id="out of memory"),
        pytest.param("53300", UNAVAILABLE, id="too many connections"),
        pytest.param("55P03", INTERRUPTED, id="lock time-out"),
        pytest.param("57014", INTERRUPTED, id="statement time-out"),
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
        pytest.param(NotReplicated("committed"), UNAVAILABLE, id="not on the standby"),
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


@pytest.mark.parametrize("seed", range(5))
def test_delays_double_up_to_a_cap(seed: int) -> None:
    random.seed(seed)
    step_s = DELAY_FIRST_S
    for delay_s in islice(delays_s(DELAY_FIRST_S, DELAY_MAX_S), 50):
        assert step_s / 2 <= delay_s <= step_s
        step_s = min(step_s * 2, DELAY_MAX_S)


def test_delays_differ() -> None:
    """Workers that lost the same server do not all reconnect at the same time."""
    assert len({tuple(islice(delays_s(DELAY_FIRST_S, DELAY_MAX_S), 3)) for _ in range(10)}) == 10


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
    assert described["at"].startswith("unit/test_database_errors.py:")


def test_a_log_line_has_the_sqlstate() -> None:
    assert describe(postgres_error("23514")) == {"error": "CheckViolationError", "sqlstate": "23514"}
