"""Writes by request: create a run, finish it, hide it.

A write goes through the same merge as an event, and into the same log. But its caller waits for an answer, so it can
be refused: what contradicts the stored run is CONFLICT, and nothing is stored (docs/MERGE_RULES.md). What was accepted
once can be asked again for ever: it is compared with what was asked for the run, not with what the run became since.

Nothing is stored after `until_s`, by the event loop's clock: the caller no longer waits then. Each raises TooLate.
"""

import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4, uuid5

import sql
from schema.decoding import InvalidBody, decode
from schema.events import (
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
from sql.connection import Connection, transaction

from .digests import created_digest, finished_digest
from .errors import EventRefused, conflict, run_not_found
from .event_log import EventType, log_write, logged_writes
from .events import merge_created, merge_finished
from .former_digests import FORMER_DIGEST, renew_digests
from .locking import lock_runs
from .purge import check_holds_nothing
from .query_arguments import RunDeletion, RunKey
from .reservations import give_back_claims
from .runs import run_of_row

Request = TypeVar("Request", CreateExportRun, UpdateExportRunStatus)

OTHER_FACTS: Final = "is stored already, with other facts"
"""The same for a run of another organisation: who asks learns nothing of it."""

RUNS_OF_MESSAGES: Final = UUID("6a1f4c2e-53b7-4e0a-9a0e-2a7c1d5b8f10")
"""The namespace of the ids of runs that were created without one."""

_STATUSES_UPWARDS = list(RunStatus)


async def create_export_run(connection: Connection, request: CreateExportRun, until_s: float = math.inf) -> ExportRun:
    """Record the start of a run. Raises RequestRefused (CONFLICT) if the run is stored with other facts.

    Without a `runId` the request's `message_id` stands for it, where it has one: so a repetition makes no second run.
    """
    run_id = request.run_id or _run_id_of_message(request)
    async with transaction(connection, until_s):
        now = await _lock(connection, run_id)
        # The row too, because a run-created event takes no lock on the run. No claims are locked after this.
        run = await connection.fetchrow(sql.query("get_run_for_update"), run_id)
        if run is not None:
            if run["org_id"] != request.org_id:
                raise conflict("runId", OTHER_FACTS)
            if await _was_created_so(connection, run_id, request):
                return run_of_row(ExportRun, run)
            if run["created_digest"] not in (None, created_digest(request)):
                raise conflict("runId", OTHER_FACTS)
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
            # A purged run, or an event of another organisation that was stored since the query above.
            raise conflict("runId", OTHER_FACTS) from refused
        return await _stored_run(connection, run_id)


async def update_export_run_status(
    connection: Connection, request: UpdateExportRunStatus, until_s: float = math.inf
) -> ExportRun:
    """Record the end of a run. Raises RequestRefused (RUN_NOT_FOUND, CONFLICT)."""
    async with transaction(connection, until_s):
        now = await _lock(connection, request.run_id)
        run = await connection.fetchrow(sql.query("get_run"), request.run_id)
        if run is None or request.org_id not in (None, run["org_id"]):
            raise run_not_found()
        if await _was_finished_so(connection, run["org_id"], request):
            return run_of_row(ExportRun, run)
        if run["finished_digest"] == FORMER_DIGEST:
            await renew_digests(connection, [RunKey(request.run_id, run["org_id"])])
            run = await connection.fetchrow(sql.query("get_run"), request.run_id)
            assert run is not None
        if run["finished_digest"] != finished_digest(request):
            if request.status == run["status"]:
                raise conflict("status", f"is {run['status']} already, with other facts")
            if _STATUSES_UPWARDS.index(request.status) < _STATUSES_UPWARDS.index(run["status"]):
                raise conflict("status", f"is {run['status']} already, and never goes down")
        event = (
            RunFinished.model_construct(
                event_id=uuid4(),
                schema_version=SCHEMA_VERSION,
                occurred_at=now,
                run_id=request.run_id,
                org_id=run["org_id"],
                **_facts(FinishedFacts, request),
            )
            .with_payload(request.payload)
            .with_trace_context(request.trace_context)
        )
        await merge_finished(connection, [event], "request")
        return await _stored_run(connection, request.run_id)


async def delete_export_run(connection: Connection, request: DeleteExportRun, until_s: float = math.inf) -> ExportRun:
    """Hide a run from the history. What it exported stays exported; leases of it that have expired are freed.

    Raises RequestRefused (RUN_NOT_FOUND, CONFLICT), also while the run holds claims: its exporter may be paying.
    """
    async with transaction(connection, until_s):
        now = await _lock(connection, request.run_id)
        run = await connection.fetchrow(sql.query("get_run"), request.run_id)
        if run is None or request.org_id not in (None, run["org_id"]):
            raise run_not_found()
        if run["deleted_at"] is not None:
            if (run["deleted_by"], run["deleted_reason"]) != (request.deleted_by, request.reason):
                raise conflict("runId", "is deleted already, by somebody else or for another reason")
            return run_of_row(ExportRun, run)
        await check_holds_nothing(connection, request.run_id, run["org_id"])
        await log_write(
            connection, EventType.RUN_DELETED, "request", request.run_id, run["org_id"], now, request.payload
        )
        await give_back_claims(connection, RunKey(request.run_id, run["org_id"]))
        deletion = RunDeletion(
            run_id=request.run_id, deleted_at=now, deleted_by=request.deleted_by, deleted_reason=request.reason
        )
        await connection.execute(sql.query("delete_run"), *deletion)
        return await _stored_run(connection, request.run_id)


async def _was_created_so(connection: Connection, run_id: UUID, request: CreateExportRun) -> bool:
    """Whether the same request was accepted before."""
    digest = created_digest(request)
    async for earlier in _accepted(connection, EventType.RUN_CREATED, CreateExportRun, run_id, request.org_id):
        if created_digest(earlier) == digest:
            return True
    return False


async def _was_finished_so(connection: Connection, org_id: str, request: UpdateExportRunStatus) -> bool:
    """Whether the same request was accepted before, with each claim as often: a repetition is a double export."""
    meaning = finished_digest(request), Counter(request.claim_ids)
    async for earlier in _accepted(connection, EventType.RUN_FINISHED, UpdateExportRunStatus, request.run_id, org_id):
        if (finished_digest(earlier), Counter(earlier.claim_ids)) == meaning:
            return True
    return False


async def _accepted(
    connection: Connection, event_type: EventType, model: type[Request], run_id: UUID, org_id: str
) -> AsyncIterator[Request]:
    """The requests that were accepted for a run. One that this version cannot read was another request."""
    async for payload in logged_writes(connection, run_id, org_id, event_type):
        with suppress(InvalidBody):
            yield decode(model, payload.encode())


def _run_id_of_message(request: CreateExportRun) -> UUID:
    if not request.idempotency_key:
        return uuid4()
    return uuid5(RUNS_OF_MESSAGES, json.dumps([request.org_id, request.idempotency_key]))


async def _lock(connection: Connection, run_id: UUID) -> datetime:
    """Lock a run until the transaction ends; returns the database's time."""
    await lock_runs(connection, [run_id])
    now: datetime = await connection.fetchval(sql.query("get_time"))
    return now


async def _stored_run(connection: Connection, run_id: UUID) -> ExportRun:
    row = await connection.fetchrow(sql.query("get_run"), run_id)
    assert row is not None
    return run_of_row(ExportRun, row)


def _facts(facts: type[WireModel], request: WireModel) -> dict[str, Any]:
    return {name: getattr(request, name) for name in facts.model_fields}
