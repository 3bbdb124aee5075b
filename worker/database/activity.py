"""What PostgreSQL says of the database as a whole."""

from datetime import datetime
from typing import NamedTuple

import sql
from sql.connection import Connection


class DatabaseActivity(NamedTuple):
    """How large the database is, and since when its oldest transaction runs, of those that this role may see."""

    size_bytes: int
    oldest_transaction_at: datetime | None


async def get_activity(connection: Connection) -> DatabaseActivity:
    """The activity now, without that of this connection."""
    row = await connection.fetchrow(sql.query("get_activity"))
    assert row is not None
    return DatabaseActivity(**row)
