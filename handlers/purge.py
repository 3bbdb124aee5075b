"""Remove a run for good: an operator's command, never a request.

The log keeps what happened, and a tombstone that says what the purge took away.
"""

import json
from dataclasses import dataclass
from uuid import UUID

import sql
from schema.events import RUN_PURGED
from schema.results import ExportRun

from .connection import Connection
from .event_log import log_write
from .locking import lock_runs
from .reservations import free_leases
from .runs import run_of_row


@dataclass(frozen=True, slots=True)
class Purge:
    """What a purge takes away: the run, and the claims that no other run exported.

    `freed_claims` count as unexported afterwards: the guard would let them be paid again.
    """

    run: ExportRun
    freed_claims: list[str]


async def plan_purge(connection: Connection, run_id: UUID) -> Purge | None:
    """What a purge would take away; None for an unknown run."""
    row = await connection.fetchrow(sql.query("get_run_for_update"), run_id)
    if row is None:
        return None
    freed = await connection.fetch(sql.query("freed_by_purge"), run_id)
    return Purge(run_of_row(ExportRun, row), [claim["claim_id"] for claim in freed])


async def purge_run(connection: Connection, run_id: UUID, purged_by: str) -> Purge | None:
    """Remove a run and its claims, and leave a tombstone in the log; None for an unknown run."""
    async with connection.transaction():
        await lock_runs(connection, [run_id])
        now = await connection.fetchval(sql.query("get_time"))
        purge = await plan_purge(connection, run_id)
        if purge is None:
            return None
        tombstone = {
            "purgedBy": purged_by,
            "run": purge.run.model_dump(mode="json"),
            "freedClaims": purge.freed_claims,
        }
        await log_write(
            connection,
            RUN_PURGED,
            "command",
            run_id,
            purge.run.org_id,
            now,
            json.dumps(tombstone),
        )
        await free_leases(connection, [(run_id, purge.run.org_id)])
        await connection.execute(sql.query("purge_claims"), run_id)
        await connection.execute(sql.query("purge_run"), run_id)
    return purge
