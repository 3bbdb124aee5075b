"""Runs, as rows and as results: one run by its id, and the runs that carried a claim."""

from typing import Any, TypeVar, cast

from asyncpg import Record

import sql
from schema.events import ClaimOutcome, RunStatus
from schema.fields import Artifact, Override, RunError, SkippedClaim
from schema.limits import FOUND_RUNS_MAX, RUN_OVERRIDES_MAX
from schema.requests import FindRunsByClaimId, GetExportRunById
from schema.results import ClaimOverride, ExportRun, ExportRunOfClaim, ExportRunWithClaims, FoundRuns

from .connection import Connection
from .errors import run_not_found

Run = TypeVar("Run", bound=ExportRun)


async def get_export_run_by_id(connection: Connection, request: GetExportRunById) -> ExportRunWithClaims:
    """One run with its claims, deleted or not. Raises RequestRefused (RUN_NOT_FOUND)."""
    row = await connection.fetchrow(sql.query("get_run_with_claims"), request.run_id, request.org_id)
    if row is None:
        raise run_not_found()
    overrides = await connection.fetch(sql.query("list_overrides"), request.run_id, row["org_id"], RUN_OVERRIDES_MAX)
    skipped = zip(row["skipped_claim_ids"], row["skip_reasons"], strict=True)
    return run_of_row(
        ExportRunWithClaims,
        row,
        claim_ids=row["claim_ids"],
        claim_overrides=[ClaimOverride(**each) for each in overrides],
        skipped_claims=[SkippedClaim(claim_id=claim_id, reason=reason) for claim_id, reason in skipped],
    )


async def find_runs_by_claim_id(connection: Connection, request: FindRunsByClaimId) -> FoundRuns:
    """The runs that carried a claim, deleted ones too, newest first, at most FOUND_RUNS_MAX."""
    rows = await connection.fetch(sql.query("find_runs_by_claim"), request.claim_id, request.org_id, FOUND_RUNS_MAX)
    return FoundRuns(
        runs=[run_of_row(ExportRunOfClaim, row, claim_outcome=ClaimOutcome(row["claim_outcome"])) for row in rows]
    )


def run_of_row(result: type[Run], facts: Record, **more: Any) -> Run:
    """A row of export_runs as a result, with what that result has beyond ExportRun."""
    run = result.model_construct(
        run_id=facts["run_id"],
        org_id=facts["org_id"],
        triggered_by=facts["triggered_by"],
        format=facts["format"],
        target_system=facts["target_system"],
        period_start=facts["period_start"],
        period_end=facts["period_end"],
        status=RunStatus(facts["status"]),
        created_at=facts["created_at"],
        finished_at=facts["finished_at"],
        claim_count=facts["claim_count"],
        skipped_count=facts["skipped_count"],
        error=_nested(RunError, code=facts["error_code"], detail=facts["error_detail"]),
        artifact=_nested(
            Artifact,
            key=facts["artifact_key"],
            sha256=facts["artifact_sha256"],
            size_bytes=facts["artifact_size_bytes"],
        ),
        external_ack_id=facts["external_ack_id"],
        retry_of_run_id=facts["retry_of_run_id"],
        override=_nested(Override, reason=facts["override_reason"], approved_by=facts["override_approved_by"]),
        deleted_at=facts["deleted_at"],
        deleted_by=facts["deleted_by"],
        has_conflict=facts["has_conflict"],
        **more,
    )
    return cast(Run, run)


Nested = TypeVar("Nested", RunError, Artifact, Override)


def _nested(model: type[Nested], **facts: Any) -> Nested | None:
    if all(fact is None for fact in facts.values()):
        return None
    return model.model_construct(**facts)
