"""What no exporter publishes, and is logged all the same."""

from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

import sql

from .connection import Connection

Origin = Literal["event", "request", "command"]
"""How a fact reached us: published by an exporter, asked for by a client, ordered by an operator."""


async def log_write(
    connection: Connection,
    event_type: str,
    origin: Origin,
    run_id: UUID,
    org_id: str,
    occurred_at: datetime,
    payload: str,
) -> None:
    """Append to the log a write that no exporter publishes, inside the caller's transaction."""
    await connection.execute(
        sql.query("insert_events"),
        [uuid4()],
        event_type,
        origin,
        [run_id],
        [org_id],
        [occurred_at],
        [payload],
    )
