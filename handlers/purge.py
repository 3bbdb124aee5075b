"""Remove a run for good, or bring it back: by an operator's command, never by a request.

The log keeps every event of the run, and an entry for each purge. Of the run only its id is left, so that an event that
comes late is refused (RUN_PURGED) and does not bring half of it back. `unpurge_run` makes the run anew from the log.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sql
from schema.results import ExportRun
from sql.connection import Connection, transaction

from .errors import conflict
from .event_log import EventType, log_write
from .locking import lock_runs, lock_runs_and_claims
from .log_replay import bring_back_run, read_logged_run, remove_run
from .query_arguments import RunKey
from .reservations import free_leases
from .runs import run_of_row


@dataclass(frozen=True, slots=True)
class Purge:
    """What a purge removes: the run, and the exports of its claims.

    `freed_claims` are unexported afterwards, so the guard would let them be paid again: no other run exported them, and
    none has reserved them.
    """

    run: ExportRun
    freed_claims: list[str]


async def plan_purge(connection: Connection, run_id: UUID) -> Purge | None:
    """What a purge would remove; None for an unknown run. It takes no locks and waits for nobody."""
    run = await connection.fetchrow(sql.query("get_run"), run_id)
    return None if run is None else Purge(run_of_row(ExportRun, run), await _freed_claims(connection, run_id))


async def purge_run(connection: Connection, run_id: UUID, purged_by: str) -> Purge | None:
    """Remove a run and its claims, and log what was removed; None for an unknown run.

    Nobody can export or reserve its claims meanwhile: what it says it frees is what is free. Raises RequestRefused
    (CONFLICT) while the run holds a lease that has not expired: its exporter may be paying.
    """
    async with transaction(connection):
        await lock_runs(connection, [run_id])
        run = await connection.fetchrow(sql.query("get_run"), run_id)
        if run is None:
            return None
        # Nobody adds a claim to a run that is locked.
        claims = await connection.fetch(sql.query("list_claims_of_run"), run_id)
        await lock_runs_and_claims(connection, [run_id], [(run["org_id"], [claim["claim_id"] for claim in claims])])
        await check_holds_nothing(connection, run_id, run["org_id"])
        run = await connection.fetchrow(sql.query("get_run_for_update"), run_id)
        assert run is not None
        now = await connection.fetchval(sql.query("get_time"))
        purge = Purge(run_of_row(ExportRun, run), await _freed_claims(connection, run_id))
        payload = {
            "runId": str(run_id),
            "purgedBy": purged_by,
            "claimIds": [claim["claim_id"] for claim in claims],
            "run": purge.run.model_dump(mode="json"),
            "freedClaims": purge.freed_claims,
        }
        await log_write(connection, EventType.RUN_PURGED, "command", run_id, run["org_id"], now, json.dumps(payload))
        await free_leases(connection, [RunKey(run_id, run["org_id"])])
        await remove_run(connection, run_id, now)
    return purge


async def unpurge_run(connection: Connection, run_id: UUID, unpurged_by: str) -> ExportRun | None:
    """Bring a purged run back from the log, with its claims; None where no run of this id was purged.

    A claim that another run has exported since is a double export, and is recorded as one.
    """
    async with transaction(connection):
        await lock_runs(connection, [run_id])
        org_id = await connection.fetchval(sql.query("unpurge_run"), run_id)
        if org_id is None:
            return None
        logged = await read_logged_run(connection, run_id, org_id)
        await lock_runs_and_claims(connection, [run_id], [(org_id, logged.claim_ids)])
        now = await connection.fetchval(sql.query("get_time"))
        payload = json.dumps({"runId": str(run_id), "unpurgedBy": unpurged_by})
        await log_write(connection, EventType.RUN_UNPURGED, "command", run_id, org_id, now, payload)
        await bring_back_run(connection, RunKey(run_id, org_id), logged)
        run = await connection.fetchrow(sql.query("get_run"), run_id)
        assert run is not None
        return run_of_row(ExportRun, run)


async def check_holds_nothing(connection: Connection, run_id: UUID, org_id: str) -> None:
    """Raises RequestRefused (CONFLICT) while a run holds claims: its exporter may be paying."""
    until: datetime | None = await connection.fetchval(sql.query("get_live_lease_end"), run_id, org_id)
    if until is not None:
        raise conflict("runId", f"holds claims until {until.isoformat()}; release them first")


async def _freed_claims(connection: Connection, run_id: UUID) -> list[str]:
    return [claim["claim_id"] for claim in await connection.fetch(sql.query("list_claims_freed_by_purge"), run_id)]
