"""Errors as asyncpg raises them, made without a database."""

import asyncpg

SECRET = "claim-4711"
"""A text that must not get into a log line."""


def postgres_error(sqlstate: str) -> asyncpg.PostgresError:
    """The exception that asyncpg raises for an error with this code."""
    error = asyncpg.PostgresError.new({"S": "ERROR", "C": sqlstate, "M": SECRET, "D": SECRET})
    assert isinstance(error, asyncpg.PostgresError)
    return error
