"""The guard's question: which of these claims have already gone out."""

import sql
from schema.events import RunStatus
from schema.requests import CheckClaims
from schema.results import CheckedClaims, ExportedBy, ExportedClaim

from .connection import Connection


async def check_claims(connection: Connection, request: CheckClaims) -> CheckedClaims:
    """Split claims into exported and unexported, each in the order asked, each claim once.

    A claim is exported if any run of the organisation, deleted or not, exported it (DESIGN section 3).
    """
    asked = list(dict.fromkeys(request.claim_ids))
    runs_of: dict[str, list[ExportedBy]] = {}
    for row in await connection.fetch(sql.query("check_claims"), request.org_id, asked):
        exported_by = ExportedBy.model_construct(
            run_id=row["run_id"], status=RunStatus(row["status"]), finished_at=row["finished_at"]
        )
        runs_of.setdefault(row["claim_id"], []).append(exported_by)
    return CheckedClaims(
        exported=[
            ExportedClaim.model_construct(claim_id=claim_id, runs=runs_of[claim_id])
            for claim_id in asked
            if claim_id in runs_of
        ],
        unexported=[claim_id for claim_id in asked if claim_id not in runs_of],
    )
