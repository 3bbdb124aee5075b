"""The guard's question: which of these claims have already gone out, and which are about to."""

from collections.abc import Sequence

import sql
from schema.events import RunStatus
from schema.requests import CheckClaims
from schema.results import CheckedClaims, ExportedBy, ExportedClaim, ReservedClaim

from .connection import Connection
from .locking import SEPARATOR


async def check_claims(connection: Connection, requests: Sequence[CheckClaims]) -> list[CheckedClaims]:
    """Split the claims of each request into exported, reserved and unexported, in the order asked, each claim once.

    A claim is exported if any run of the organisation, deleted or not, exported it (DESIGN section 3). One that is
    not, and that a run has leased, is reserved, even if the lease has expired.
    """
    asked: dict[str, set[str]] = {}
    for request in requests:
        asked.setdefault(request.org_id, set()).update(request.claim_ids)
    exports: dict[tuple[str, str], list[ExportedBy]] = {}
    leases: dict[tuple[str, str], ReservedClaim] = {}
    for row in await connection.fetch(
        sql.query("find_exports_and_leases"), list(asked), [SEPARATOR.join(claim_ids) for claim_ids in asked.values()]
    ):
        key = row["org_id"], row["claim_id"]
        if row["expires_at"] is None:
            exported_by = ExportedBy(row["run_id"], RunStatus(row["status"]), row["finished_at"])
            exports.setdefault(key, []).append(exported_by)
        else:
            leases[key] = ReservedClaim(row["claim_id"], row["run_id"], row["expires_at"])
    for runs in exports.values():
        if len(runs) > 1:
            runs.sort(key=lambda run: (run.finished_at, run.run_id))
    answers: list[CheckedClaims] = []
    for request in requests:
        exported: list[ExportedClaim] = []
        reserved: list[ReservedClaim] = []
        unexported: list[str] = []
        for claim_id in dict.fromkeys(request.claim_ids):
            key = request.org_id, claim_id
            if key in exports:
                exported.append(ExportedClaim(claim_id, exports[key]))
            elif key in leases:
                reserved.append(leases[key])
            else:
                unexported.append(claim_id)
        answers.append(CheckedClaims.model_construct(exported=exported, reserved=reserved, unexported=unexported))
    return answers
