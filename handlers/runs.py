"""Runs, from rows to results: one run by its id, and the runs that carried a claim."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from asyncpg import Record

import sql
from schema.events import ClaimOutcome, RunStatus, RunTrigger
from schema.fields import Artifact, Override, SkippedClaim
from schema.limits import ERROR_DETAIL_STORED_CHARS_MAX, FUTURE_TOLERANCE_S, RUN_CLAIMS_PAGE_MAX, RUN_REVERSALS_MAX
from schema.requests import FindRunsByClaimId, GetExportRunById
from schema.results import (
    ClaimOverride,
    ExportRun,
    ExportRunOfClaim,
    ExportRunWithClaims,
    FoundRuns,
    RunReversal,
    StoredRunError,
)
from sql.connection import Connection

from .claim_details import totals_of_json
from .cursors import Position
from .errors import run_not_found
from .run_claims import TEXT_BYTES_MAX, read_run_claims

Run = TypeVar("Run", bound=ExportRun)


async def get_export_run_by_id(connection: Connection, request: GetExportRunById) -> ExportRunWithClaims:
    """One run with its claims, deleted or not; of one with very many claims, with the first of them.

    Raises RequestRefused (RUN_NOT_FOUND).
    """
    row = await connection.fetchrow(sql.query("get_run_with_claims"), request.run_id, request.org_id, TEXT_BYTES_MAX)
    if row is None:
        raise run_not_found()
    if row["bytes"] > TEXT_BYTES_MAX or row["claim_count"] + row["skipped_count"] > RUN_CLAIMS_PAGE_MAX:
        return await _run_with_first_claims(connection, row)
    reversals = await _reversals(connection, row)
    overrides = await connection.fetch(sql.query("list_overrides"), request.run_id, row["org_id"])
    skipped = zip(row["skipped_claim_ids"], row["skip_reasons"], strict=True)
    codes: dict[str, str] = dict(row["skip_codes"])
    return run_of_row(
        ExportRunWithClaims,
        row,
        claim_ids=row["claim_ids"],
        claim_overrides=[ClaimOverride(**override) for override in overrides],
        skipped_claims=[
            SkippedClaim(claim_id=claim_id, reason=reason, code=codes.get(claim_id)) for claim_id, reason in skipped
        ],
        reversals=reversals,
    )


async def _run_with_first_claims(connection: Connection, row: Record) -> ExportRunWithClaims:
    """The claims are read after the run, and may be those of a moment later."""
    page = await read_run_claims(connection, row["run_id"], row["org_id"], RUN_CLAIMS_PAGE_MAX)
    return run_of_row(
        ExportRunWithClaims,
        row,
        claim_ids=[each.claim_id for each in page.claims if each.outcome not in (None, ClaimOutcome.SKIPPED)],
        claim_overrides=[
            ClaimOverride.model_construct(claim_id=each.claim_id, **asdict(override))
            for each in page.claims
            for override in each.overrides
        ],
        skipped_claims=[
            SkippedClaim.model_construct(claim_id=each.claim_id, reason=each.reason or "", code=each.code)
            for each in page.claims
            if each.outcome is ClaimOutcome.SKIPPED
        ],
        reversals=await _reversals(connection, row),
        claims_next_cursor=page.next_cursor,
    )


async def _reversals(connection: Connection, run: Record) -> list[RunReversal]:
    """The newest reversals of a run."""
    if not run["reversed_count"]:
        return []
    arguments = run["run_id"], run["org_id"], RUN_REVERSALS_MAX
    rows = await connection.fetch(sql.query("list_reversals_of_run"), *arguments)
    return [RunReversal.model_construct(**row) for row in rows]


async def find_runs_by_claim_id(connection: Connection, request: FindRunsByClaimId) -> FoundRuns:
    """The newest runs that carried a claim, deleted ones too, newest first."""
    rows = await connection.fetch(sql.query("find_runs_by_claim"), request.claim_id, request.org_id, request.limit + 1)
    runs = [
        run_of_row(ExportRunOfClaim, row, claim_outcome=ClaimOutcome(row["claim_outcome"]))
        for row in rows[: request.limit]
    ]
    return FoundRuns.model_construct(runs=runs, truncated=len(rows) > request.limit)


def run_of_row(result: type[Run], row: Record, **more: Any) -> Run:
    """A row of export_runs as a result; `more` are the fields that the result has besides those of ExportRun."""
    run = result.model_construct(
        run_id=row["run_id"],
        org_id=row["org_id"],
        triggered_by=row["triggered_by"],
        format=row["format"],
        target_system=row["target_system"],
        period_start=row["period_start"],
        period_end=row["period_end"],
        trigger=None if row["trigger"] is None else RunTrigger(row["trigger"]),
        scope=row["scope"],
        status=RunStatus(row["status"]),
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        claim_count=row["claim_count"],
        skipped_count=row["skipped_count"],
        error=_error(row["error_code"], row["error_detail"]),
        artifact=_nested(
            Artifact,
            key=row["artifact_key"],
            sha256=row["artifact_sha256"],
            size_bytes=row["artifact_size_bytes"],
        ),
        external_ack_id=row["external_ack_id"],
        retry_of_run_id=row["retry_of_run_id"],
        override=_nested(Override, reason=row["override_reason"], approved_by=row["override_approved_by"]),
        deleted_at=row["deleted_at"],
        deleted_by=row["deleted_by"],
        has_conflict=row["has_conflict"],
        has_future_time=max(row["created_at"], row["finished_at"] or row["created_at"]) > future_start(),
        totals=totals_of_json(row["totals"]),
        totals_disagree=row["totals_disagree"],
        imported=row["imported"],
        reversed_count=row["reversed_count"],
        **more,
    )
    return cast(Run, run)


def future_start() -> datetime:
    """The first time that is too far ahead of this worker's clock to be believed."""
    return datetime.now(UTC) + timedelta(seconds=FUTURE_TOLERANCE_S)


def position_of(run: ExportRun) -> Position:
    """Where a run stands in a list of runs that is sorted by time."""
    return Position(run.created_at, run.run_id)


def _error(code: str | None, detail: str | None) -> StoredRunError | None:
    if code is None or detail is None:
        return None
    truncated = len(detail) >= ERROR_DETAIL_STORED_CHARS_MAX
    return StoredRunError.model_construct(code=code, detail=detail, detail_truncated=truncated)


Nested = TypeVar("Nested", Artifact, Override)


def _nested(model: type[Nested], **facts: Any) -> Nested | None:
    if all(fact is None for fact in facts.values()):
        return None
    return model.model_construct(**facts)
