"""Requests with as few fields as there may be, answered by the handlers. `org-1` asks them, if nobody else is named."""

import json
from typing import Any, TypeVar
from uuid import UUID

from handlers.claims import check_claims
from handlers.writes import create_export_run, delete_export_run, update_export_run_status
from schema.decoding import decode
from schema.fields import WireModel
from schema.requests import CheckClaims, CreateExportRun, DeleteExportRun, UpdateExportRunStatus
from schema.results import CheckedClaims, ExportRun
from sql.connection import Connection

Model = TypeVar("Model", bound=WireModel)


def decoded(model: type[Model], **fields: Any) -> Model:
    return decode(model, json.dumps(fields, default=str).encode())


async def create(connection: Connection, **fields: Any) -> ExportRun:
    least = {"orgId": "org-1", "triggeredBy": "alice", "format": "csv"}
    return await create_export_run(connection, decoded(CreateExportRun, **(least | fields)))


async def update(connection: Connection, run_id: UUID, status: str, *claim_ids: str, **fields: Any) -> ExportRun:
    request = decoded(UpdateExportRunStatus, runId=run_id, status=status, claimIds=claim_ids, **fields)
    return await update_export_run_status(connection, request)


async def delete(connection: Connection, run_id: UUID, **fields: Any) -> ExportRun:
    request = decoded(DeleteExportRun, **{"runId": run_id, "deletedBy": "bob", "reason": "a test", **fields})
    return await delete_export_run(connection, request)


async def check(connection: Connection, *claim_ids: str) -> CheckedClaims:
    [result] = await check_claims(connection, [CheckClaims(org_id="org-1", claim_ids=list(claim_ids))])
    return result
