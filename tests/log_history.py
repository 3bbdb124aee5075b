"""A history with everything that the log knows, in several organisations: what verify and rebuild are tested with."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from handlers.discards import Discard, log_discard
from handlers.double_exports import resolve_double_export
from handlers.purge import purge_run, unpurge_run
from handlers.reservations import release_claims, reserve_claims
from handlers.reversals import reverse_export
from schema.fields import Override
from schema.requests import ReleaseClaims, ReserveClaims, ResolveDoubleExport, ReverseExport
from sql.connection import Connection
from tests.integration.requests import create, delete, update
from tests.storing import created_event, finished_event, store_created, store_finished

RUN_A = UUID(int=0xA)
"""A completed run of org-1, with the claims c-1 to c-3, of which c-1 has been exported by another run as well."""


async def finish(
    connection: Connection, org_id: str, *claim_ids: str, run_id: UUID | None = None, **fields: Any
) -> UUID:
    """Store the start and the end of a run."""
    run = {"runId": str(run_id or uuid4()), "orgId": org_id}
    await store_created(connection, [created_event(**run)])
    await store_finished(connection, [finished_event(**run, claimIds=claim_ids, **fields)])
    return UUID(run["runId"])


async def reserve(connection: Connection, org_id: str, run_id: UUID, *claim_ids: str, approved_by: str = "") -> None:
    """Reserve claims, by an override if somebody has approved it."""
    override = Override(reason="a correction", approved_by=approved_by) if approved_by else None
    request = ReserveClaims(org_id=org_id, run_id=run_id, claim_ids=list(claim_ids), override=override)
    assert (await reserve_claims(connection, request)).granted == list(claim_ids)


async def reverse(connection: Connection, org_id: str, run_id: UUID, *claim_ids: str) -> None:
    """Take back what a run exported, these claims or all."""
    await reverse_export(
        connection,
        ReverseExport(
            org_id=org_id,
            run_id=run_id,
            claim_ids=list(claim_ids) or None,
            reason="refused",
            reversed_by="bob",
            approved_by="carol",
        ),
    )


async def resolve(connection: Connection, org_id: str, claim_id: str) -> None:
    """Resolve a double export."""
    await resolve_double_export(
        connection, ResolveDoubleExport(org_id=org_id, claim_id=claim_id, resolved_by="bob", note="paid back")
    )


async def write_history(connection: Connection, prefix: str = "") -> None:
    """Write the history, in organisations whose names begin with a prefix. Without one, RUN_A is one of its runs."""
    org = f"{prefix}org-1"
    first = await finish(connection, org, "c-1", "c-2", "c-3", run_id=None if prefix else RUN_A)
    skipped = [{"claimId": "c-5", "reason": "no receipt"}, {"claimId": "c-4", "reason": "private"}]
    second = await finish(connection, org, "c-1", "c-4", "c-4", skippedClaims=skipped)
    money = {"amount": "12.5", "currency": "EUR"}
    await finish(
        connection,
        org,
        "c-10",
        "c-11",
        skippedClaims=[{"claimId": "c-12", "reason": "late", "code": "LATE"}],
        totals=[{"claimCount": 3, **money}],
        claimDetails=[{"claimId": "c-10", "voucherId": "V-1", **money}, {"claimId": "c-13", **money}],
    )
    await finish(connection, org, "c-6", status="failed", error={"code": "E", "detail": "out of paper"})
    await store_finished(connection, [finished_event(runId=str(first), orgId=org, status="failed", claimIds=["c-2"])])
    # Double exports: one is resolved and stays so, one is resolved and opened again.
    await resolve(connection, org, "c-4")
    await resolve(connection, org, "c-1")
    await finish(connection, org, "c-1")
    # Overrides: one is used, one is withdrawn, and its claim goes out all the same, one is held still.
    corrected, withdrawn, held = uuid4(), uuid4(), uuid4()
    await reserve(connection, org, corrected, "c-2", approved_by="carol")
    await finish(connection, org, "c-2", run_id=corrected)
    await reserve(connection, org, withdrawn, "c-3", approved_by="carol")
    await release_claims(connection, ReleaseClaims(org_id=org, run_id=withdrawn))
    await finish(connection, org, "c-3", run_id=withdrawn)
    await reserve(connection, org, held, "c-1", approved_by="dave")
    # Requests: a run is created, ended and hidden, one is only created.
    by_request = await create(connection, orgId=org)
    await update(connection, by_request.run_id, "partial", "c-7", skippedClaims=[{"claimId": "c-8", "reason": "late"}])
    await delete(connection, by_request.run_id)
    await create(connection, orgId=org)
    # Purges: one run stays purged, one comes back, after another run has exported its claim.
    voucher = {"claimId": "c-1", "voucherId": "V-2"}
    await purge_run(connection, await finish(connection, f"{prefix}org-3", "c-1", claimDetails=[voucher]), "erin")
    back = await finish(connection, org, "c-9")
    await purge_run(connection, back, "erin")
    await finish(connection, org, "c-9")
    assert await unpurge_run(connection, back, "erin") is not None
    # Reversals: of one claim and of a whole run, before and after the run was purged for a while; then a claim goes out
    # again, once as it was granted, once without a grant.
    reversed_run, regranted = await finish(connection, org, "c-20", "c-21", "c-22"), uuid4()
    await reverse(connection, org, reversed_run, "c-20")
    await purge_run(connection, reversed_run, "erin")
    assert await unpurge_run(connection, reversed_run, "erin") is not None
    await reverse(connection, org, reversed_run)
    await reserve(connection, org, regranted, "c-20", "c-21")
    await finish(connection, org, "c-20", run_id=regranted)
    await finish(connection, org, "c-22")
    early = {"runId": str(regranted), "orgId": org, "status": "failed", "occurredAt": "2020-01-01T00:00:00Z"}
    await store_finished(connection, [finished_event(claimIds=["c-20"], **early)])
    await delete(connection, second)
    await finish(connection, f"{prefix}org-2", "c-1")
    await log_discard(connection, _discard(org))
    await log_discard(connection, _discard(None))


def _discard(org_id: str | None) -> Discard:
    body = json.dumps({"orgId": org_id, "runId": str(uuid4())})
    return Discard("q", None, "INVALID_EVENT", "detail", datetime.now(UTC), "a test", "erin", body.encode())
