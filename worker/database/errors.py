"""What an error of the database means for the message that met it."""

from enum import Enum, auto
from typing import Final

import asyncpg

from sql.connection import NotReplicated


class DatabaseRefused(Exception):
    """The database is there, and not as this version needs it. The text says what somebody has to do."""


class Failure(Enum):
    """What an exception means for the message that met it."""

    UNAVAILABLE = auto()
    """PostgreSQL speaks of itself: nobody's message passes now. Nothing is wrong with this one."""

    INTERRUPTED = auto()
    """PostgreSQL speaks of this transaction: it met a lock of another, or took too long. Others may pass meanwhile."""

    UNSTORABLE = auto()
    """PostgreSQL refuses the values; it will refuse them again."""

    BUG = auto()

    @property
    def is_temporary(self) -> bool:
        """Whether the same message may pass later."""
        return self in (Failure.UNAVAILABLE, Failure.INTERRUPTED)


# Classes and codes of https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNAVAILABLE: Final = (
    "08",  # connection lost
    "25006",  # read only: a standby, or a full disk's precaution
    "28",  # password or role changed
    "3D000",  # database missing
    "42501",  # a privilege withdrawn
    "42703",  # a column missing: not migrated yet
    "42P01",  # a table missing
    "53",  # no memory, no disk, no connection left
    "57",  # shut down, starting up
    "58",  # the machine fails
)
_INTERRUPTED: Final = (
    "25P03",  # idle in a transaction for too long: the worker, or the way to it, stood still
    "25P04",  # transaction time-out
    "40",  # serialisation failure, deadlock
    "53200",  # no room for its locks, or for its work
    "55P03",  # lock time-out
    "57014",  # statement time-out, or cancelled by an administrator
)
_UNSTORABLE: Final = ("21", "22", "23", "54")


def is_lost_connection(error: BaseException) -> bool:
    """Whether this error of a connection that was open says that it is open no more."""
    if isinstance(error, asyncpg.InterfaceError):
        return meaning_of(error) is Failure.UNAVAILABLE
    is_ended = isinstance(error, asyncpg.AdminShutdownError | asyncpg.CrashShutdownError)
    return is_ended or isinstance(error, asyncpg.PostgresConnectionError | ConnectionError)


def meaning_of(error: BaseException) -> Failure:
    """What an exception from the database means for the message that met it."""
    if isinstance(error, asyncpg.ConnectionDoesNotExistError) and isinstance(error.__cause__, asyncpg.PostgresError):
        return meaning_of(error.__cause__)  # PostgreSQL said why it closed the connection
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Failure.UNAVAILABLE  # a migration changed a table under us; the next attempt plans anew
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        if sqlstate.startswith(_INTERRUPTED):
            return Failure.INTERRUPTED
        if sqlstate.startswith(_UNAVAILABLE):
            return Failure.UNAVAILABLE
        return Failure.UNSTORABLE if sqlstate.startswith(_UNSTORABLE) else Failure.BUG
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg's own errors have no SQLSTATE: a value it cannot encode, a connection that is gone, a URL it
        # cannot read.
        a_value = isinstance(error, ValueError) and not isinstance(error, asyncpg.ClientConfigurationError)
        return Failure.UNSTORABLE if a_value else Failure.UNAVAILABLE
    if isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError | NotReplicated | DatabaseRefused):
        return Failure.UNAVAILABLE
    return Failure.BUG
