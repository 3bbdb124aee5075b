"""The guard's question: which of these claims have already gone out, and which are about to."""

from collections.abc import Sequence

from schema.claim_ids import by_spelling
from schema.operations import CHECK_CLAIMS
from schema.requests import CheckClaims
from schema.results import CheckedClaims, ExportedClaim, PendingEvents, ReservedClaim
from sql.connection import Connection

from .claim_standing import ClaimStanding, claim_standing


async def check_claims(
    connection: Connection, requests: Sequence[CheckClaims], pending_events: PendingEvents | None = None
) -> list[CheckedClaims]:
    """Split the claims of each request into exported, reserved and unexported, in the request's order and spelling.

    Each spelling is there once. A claim is exported if any run of the organisation, deleted or not, exported it
    (docs/MERGE_RULES.md). A claim that is not exported, and that a run has leased, is reserved, even if the lease has
    expired. `pending_events` is what the results say of events that are not stored yet. Raises RequestRefused
    (RESULT_TOO_LARGE) where the claims of all requests together were exported by very many runs.
    """
    claim_ids: dict[str, set[str]] = {}
    for request in requests:
        claim_ids.setdefault(request.org_id, set()).update(request.claim_ids)
    standing = await claim_standing(connection, claim_ids, CHECK_CLAIMS)
    return [_split(request, standing, pending_events) for request in requests]


def _split(request: CheckClaims, standing: ClaimStanding, pending_events: PendingEvents | None) -> CheckedClaims:
    exported: list[ExportedClaim] = []
    reserved: list[ReservedClaim] = []
    unexported: list[str] = []
    org_id, exports, leases = request.org_id, standing.exports, standing.leases
    for spelling, claim_id in by_spelling(request.claim_ids).items():
        key = org_id, claim_id
        if key in exports:
            exported.append(ExportedClaim(spelling, exports[key]))
        elif key in leases:
            lease = leases[key]
            reserved.append(ReservedClaim(spelling, lease.run_id, lease.expires_at))
        else:
            unexported.append(spelling)
    return CheckedClaims.model_construct(
        exported=exported,
        reserved=reserved,
        unexported=unexported,
        as_of=standing.as_of,
        pending_events=pending_events,
    )
