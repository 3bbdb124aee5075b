"""Whether a run gets a claim: one decision per claim, by its exports and its lease."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest

from handlers.claim_standing import ClaimStanding, Lease
from handlers.reservations import Decision, Grant, decide, gather
from schema.events import RunStatus
from schema.fields import Override
from schema.requests import ReserveClaims
from schema.results import ClaimConflict, ConflictReason, ExportedBy

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
OWN, FIRST, SECOND, HOLDER = (UUID(int=number) for number in range(1, 5))
KEY = ("org-1", "c-1")
EXPORTS = [ExportedBy(FIRST, RunStatus.COMPLETED, NOW), ExportedBy(SECOND, RunStatus.PARTIAL, NOW)]


def lease(run_id: UUID, *, expired: bool = False) -> Lease:
    return Lease(run_id, NOW, 7, expired)


def refused(reason: ConflictReason, run_id: UUID) -> ClaimConflict:
    return ClaimConflict("c-1", reason, run_id, None if reason is ConflictReason.EXPORTED else NOW)


def request(flags: str) -> ReserveClaims:
    return ReserveClaims(
        org_id="org-1",
        run_id=OWN,
        claim_ids=["c-1"],
        override=Override(reason="the file was lost", approved_by="carol") if "override" in flags else None,
        take_expired="take" in flags,
    )


EXPORTED, RESERVED, EXPIRED = ConflictReason.EXPORTED, ConflictReason.RESERVED, ConflictReason.EXPIRED
SLOW = lease(HOLDER, expired=True)
CASES: list[tuple[str, list[ExportedBy], Lease | None, Decision]] = [
    ("", [], None, Grant("c-1", (), None)),
    ("", EXPORTS, None, refused(EXPORTED, FIRST)),
    ("take", EXPORTS, SLOW, refused(EXPORTED, FIRST)),
    ("", EXPORTS, lease(OWN), refused(EXPORTED, FIRST)),
    ("override", EXPORTS, None, Grant("c-1", EXPORTS, None)),
    ("override", EXPORTS, lease(OWN), Grant("c-1", EXPORTS, lease(OWN))),
    ("override", EXPORTS, lease(HOLDER), refused(RESERVED, HOLDER)),
    ("override", EXPORTS, SLOW, refused(EXPIRED, HOLDER)),
    ("override take", EXPORTS, SLOW, Grant("c-1", EXPORTS, SLOW)),
    ("override", [], lease(HOLDER), refused(RESERVED, HOLDER)),
    ("", [], lease(OWN), Grant("c-1", (), lease(OWN))),
    ("", [], lease(OWN, expired=True), Grant("c-1", (), lease(OWN, expired=True))),
    ("", [], lease(HOLDER), refused(RESERVED, HOLDER)),
    ("take", [], lease(HOLDER), refused(RESERVED, HOLDER)),
    ("", [], SLOW, refused(EXPIRED, HOLDER)),
    ("take", [], SLOW, Grant("c-1", (), SLOW)),
]


@pytest.mark.parametrize(("flags", "exports", "lease_of_claim", "decision"), CASES)
def test_exports_and_lease_decide_about_a_claim(
    flags: str, exports: list[ExportedBy], lease_of_claim: Lease | None, decision: Decision
) -> None:
    standing = ClaimStanding(
        exports={KEY: exports} if exports else {},
        leases={KEY: lease_of_claim} if lease_of_claim else {},
        reversed_run_ids={},
        as_of=NOW,
    )
    assert decide(request(flags), "c-1", standing) == decision


@pytest.mark.parametrize(
    ("lease_of_claim", "reversed_run_ids"), [(None, [HOLDER]), (SLOW, [HOLDER]), (lease(OWN), ())], ids=str
)
def test_a_run_that_has_the_claim_already_was_not_granted_it_after_a_reversal(
    lease_of_claim: Lease | None, reversed_run_ids: Sequence[UUID]
) -> None:
    leases = {KEY: lease_of_claim} if lease_of_claim else {}
    standing = ClaimStanding(exports={}, leases=leases, reversed_run_ids={KEY: [HOLDER]}, as_of=NOW)
    assert decide(request("take"), "c-1", standing) == Grant("c-1", (), lease_of_claim, reversed_run_ids)


def test_exports_and_leases_of_another_organisation_do_not_count() -> None:
    other = ("org-2", "c-1")
    standing = ClaimStanding(
        exports={other: EXPORTS}, leases={other: lease(HOLDER)}, reversed_run_ids={other: [HOLDER]}, as_of=NOW
    )
    assert decide(request(""), "c-1", standing) == Grant("c-1", (), None)


def test_grants_and_conflicts_keep_the_order_of_the_request() -> None:
    grants = [Grant(claim_id, (), None) for claim_id in ("c-9", "c-1", "c-5")]
    conflicts = [ClaimConflict(claim_id, RESERVED, HOLDER, NOW) for claim_id in ("c-8", "c-2")]
    reservation = gather([grants[0], conflicts[0], grants[1], conflicts[1], grants[2]])
    assert (reservation.grants, reservation.conflicts) == (grants, conflicts)
