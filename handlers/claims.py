"""The guard's question: which of these claims have already gone out."""

from collections.abc import Mapping, Sequence

import sql
from schema.events import RunStatus
from schema.requests import CheckClaims
from schema.results import CheckedClaims, ExportedBy, ExportedClaim

from .connection import Connection


async def check_claims(connection: Connection, requests: Sequence[CheckClaims]) -> list[CheckedClaims]:
    """Split the claims of each request into exported and unexported, each in the order asked, each claim once.

    A claim is exported if any run of the organisation, deleted or not, exported it (DESIGN section 3).
    """
    asked = list({(request.org_id, claim_id) for request in requests for claim_id in request.claim_ids})
    runs_of: dict[tuple[str, str], list[ExportedBy]] = {}
    for row in await connection.fetch(sql.query("check_claims"), *zip(*asked, strict=True)):
        runs = runs_of.setdefault((row["org_id"], row["claim_id"]), [])
        runs.append(ExportedBy(row["run_id"], RunStatus(row["status"]), row["finished_at"]))
    for runs in runs_of.values():
        runs.sort(key=lambda run: (run.finished_at, run.run_id))
    return [_checked(request, runs_of) for request in requests]


def _checked(request: CheckClaims, runs_of: Mapping[tuple[str, str], list[ExportedBy]]) -> CheckedClaims:
    exported: list[ExportedClaim] = []
    unexported: list[str] = []
    for claim_id in dict.fromkeys(request.claim_ids):
        if runs := runs_of.get((request.org_id, claim_id)):
            exported.append(ExportedClaim(claim_id, runs))
        else:
            unexported.append(claim_id)
    return CheckedClaims.model_construct(exported=exported, unexported=unexported)
