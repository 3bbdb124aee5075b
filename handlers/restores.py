"""What follows the restore of a database from a backup: an operator's command, never a request."""

from dataclasses import dataclass
from datetime import datetime

import sql
from sql.connection import Connection, transaction


@dataclass(frozen=True, slots=True)
class Restore:
    """What holds after a restore: the next fencing token is greater than this one, and no claim is granted before."""

    fencing_token: int
    grants_held_until: datetime


async def after_restore(connection: Connection, held_s: int) -> Restore:
    """Make the restored database the one in use.

    Its leases are those of the backup. Those that were granted since are unknown, so for `held_s` seconds no claim is
    granted: until the last of them is over. To repeat it begins that time anew.
    """
    async with transaction(connection):
        token: int = await connection.fetchval(sql.query("raise_fencing_tokens"))
        held_until: datetime = await connection.fetchval(sql.query("note_restore"), held_s)
    return Restore(token, held_until)
