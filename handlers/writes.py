"""Writes by request: create a run, finish it, hide it.

A write is an event too: it goes through the same merge and into the same log. But its caller is there to hear
a refusal: what contradicts the stored run is CONFLICT, and nothing is stored (DESIGN section 3).
"""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sql
from schema.errors import DeadLetterCode, ErrorCode, FieldError
from schema.events import (
    RUN_DELETED,
    SCHEMA_VERSION,
    CreatedFacts,
    FinishedFacts,
    RunCreated,
    RunFinished,
    RunStatus,
)
from schema.fields import WireModel
from schema.requests import CreateExportRun, DeleteExportRun, UpdateExportRunStatus
from schema.results import ExportRun

from .connection import Connection
from .errors import EventRefused, RequestRefused, run_not_found
from .event_log import log_write
from .events import created_digest, finished_digest, merge_created, merge_finished
from .locking import lock_runs
from .reservations import free_leases
from .runs import run_of_row

_STATUSES_UPWARDS = list(RunStatus)


async def create_export_run(connection: Connection, request: CreateExportRun) -> ExportRun:
    """Record the start of a run. Raises RequestRefused (CONFLICT) where the run is known with other facts."""
    run_id = request.run_id or uuid4()
    async with connection.transaction():
        now = await _lock(connection, run_id)
        # Its row, too: a run-created under way may fill it in. No claims are locked after it.
        stored = await connection.fetchrow(sql.query("get_run_for_update"), run_id)
        if stored is not None and stored["org_id"] != request.org_id:
            raise _conflict("runId", "is taken")
        if stored is not None and stored["created_digest"] is not None:
            if stored["created_digest"] != created_digest(request):
                raise _conflict("runId", "is known, with other facts than these")
            return run_of_row(ExportRun, stored)
        event = RunCreated.model_construct(
            event_id=uuid4(),
            schema_version=SCHEMA_VERSION,
            occurred_at=now,
            run_id=run_id,
            org_id=request.org_id,
            **_facts(CreatedFacts, request),
        ).with_payload(request.payload)
        try:
            await merge_created(connection, [event], "request")
        except EventRefused as refused:
            # An event of another organisation took the runId since we looked.
            assert refused.code is DeadLetterCode.RUN_OF_OTHER_ORGANISATION
            raise _conflict("runId", "is taken") from None
        return await _stored_run(connection, run_id)


async def update_export_run_status(connection: Connection, request: UpdateExportRunStatus) -> ExportRun:
    """Record the end of a run. Raises RequestRefused (RUN_NOT_FOUND, CONFLICT)."""
    async with connection.transaction():
        now = await _lock(connection, request.run_id)
        stored = await connection.fetchrow(sql.query("get_run"), request.run_id)
        if stored is None or request.org_id not in (None, stored["org_id"]):
            raise run_not_found()
        if stored["finished_digest"] == finished_digest(request):
            return run_of_row(ExportRun, stored)
        if request.status == stored["status"]:
            raise _conflict("status", f"is {stored['status']} already, with other facts than these")
        if _STATUSES_UPWARDS.index(request.status) < _STATUSES_UPWARDS.index(stored["status"]):
            raise _conflict("status", f"is {stored['status']} already, and never goes down")
        event = RunFinished.model_construct(
            event_id=uuid4(),
            schema_version=SCHEMA_VERSION,
            occurred_at=now,
            run_id=request.run_id,
            org_id=stored["org_id"],
            **_facts(FinishedFacts, request),
        ).with_payload(request.payload)
        await merge_finished(connection, [event], "request")
        return await _stored_run(connection, request.run_id)


async def delete_export_run(connection: Connection, request: DeleteExportRun) -> ExportRun:
    """Hide a run from the history; what it exported stays exported, what it reserved is freed.

    Raises RequestRefused (RUN_NOT_FOUND, CONFLICT).
    """
    async with connection.transaction():
        now = await _lock(connection, request.run_id)
        stored = await connection.fetchrow(sql.query("get_run"), request.run_id)
        if stored is None or request.org_id not in (None, stored["org_id"]):
            raise run_not_found()
        if stored["deleted_at"] is not None:
            if (stored["deleted_by"], stored["deleted_reason"]) != (request.deleted_by, request.reason):
                raise _conflict("runId", "is deleted already, by somebody else or for another reason")
            return run_of_row(ExportRun, stored)
        await log_write(connection, RUN_DELETED, "request", request.run_id, stored["org_id"], now, request.payload)
        await free_leases(connection, [(request.run_id, stored["org_id"])])
        await connection.execute(sql.query("delete_run"), request.run_id, now, request.deleted_by, request.reason)
        return await _stored_run(connection, request.run_id)


async def _lock(connection: Connection, run_id: UUID) -> datetime:
    """Keep others from ending or hiding a run until the transaction ends; returns the database's time."""
    await lock_runs(connection, [run_id])
    now: datetime = await connection.fetchval(sql.query("get_time"))
    return now


async def _stored_run(connection: Connection, run_id: UUID) -> ExportRun:
    row = await connection.fetchrow(sql.query("get_run"), run_id)
    assert row is not None
    return run_of_row(ExportRun, row)


def _facts(facts: type[WireModel], request: WireModel) -> dict[str, Any]:
    return {name: getattr(request, name) for name in facts.model_fields}


def _conflict(field: str, message: str) -> RequestRefused:
    return RequestRefused(
        ErrorCode.CONFLICT,
        "the request contradicts what is stored",
        FieldError(field=field, message=message),
    )
