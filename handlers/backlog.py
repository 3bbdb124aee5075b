"""What waits for somebody: alerts for RabbitMQ, double exports for a person, stale runs for their exporters."""

from typing import Final, NamedTuple

import sql
from sql.connection import Connection

BACKLOG_COUNTED_MAX: Final = 10_000
"""Of each kind so many are counted. What is more than that is too much in any case."""


class Backlog(NamedTuple):
    """How many of each kind there are, BACKLOG_COUNTED_MAX at most."""

    unpublished_alerts: int
    unresolved_double_exports: int
    stale_runs: int


async def count_backlog(connection: Connection, stale_run_s: int) -> Backlog:
    """Count each kind, of all organisations. A stale run started more than `stale_run_s` ago and has not ended."""
    row = await connection.fetchrow(sql.query("count_backlog"), stale_run_s, BACKLOG_COUNTED_MAX)
    assert row is not None
    return Backlog(**row)
