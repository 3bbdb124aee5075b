"""How claims stand: which runs have exported a claim, and which run has leased it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import sql
from schema.events import RunStatus
from schema.limits import REPLY_BYTES_MAX
from schema.operations import Operation
from schema.results import ExportedBy
from sql.connection import Connection

from .errors import result_too_large
from .query_arguments import OrganisationClaims, column_arrays, joined

EXPORTED_BY_BYTES_MIN: Final = 100
"""The least that one ExportedBy takes in a reply."""

STANDING_ROWS_MAX: Final = REPLY_BYTES_MAX // EXPORTED_BY_BYTES_MIN
"""More exports than this fit into no reply, so no more are read."""

ClaimKey: TypeAlias = tuple[str, str]
"""An organisation and a claim of it."""


# A check may bring thousands of these, so they are no models and not frozen: both cost time.
@dataclass(slots=True)
class Lease:
    """A run's lease on a claim. `has_expired` is by the database's clock, at the time of the query."""

    run_id: UUID
    expires_at: datetime
    fencing_token: int
    has_expired: bool


@dataclass(slots=True)
class ClaimStanding:
    """What stands in the way of exporting some claims. A claim that is in neither mapping is free."""

    exports: dict[ClaimKey, list[ExportedBy]]
    """The runs that exported a claim, deleted ones too; the earliest to finish first."""

    reversed_run_ids: dict[ClaimKey, list[UUID]]
    """The runs whose export of a claim was taken back. They do not stand in the way."""

    leases: dict[ClaimKey, Lease]
    """The lease on a claim, also one that has expired."""

    as_of: datetime
    """The database's time. What was committed before it is known here."""


async def claim_standing(
    connection: Connection, claim_ids: Mapping[str, Collection[str]], operation: Operation[Any, Any]
) -> ClaimStanding:
    """How the claims of organisations stand. There must be an organisation.

    Raises RequestRefused (RESULT_TOO_LARGE) for an operation whose result could not hold so many exports.
    """
    rows = await connection.fetch(
        sql.query("find_exports_and_leases"),
        *column_arrays(OrganisationClaims(org_id, joined(ids)) for org_id, ids in claim_ids.items()),
        STANDING_ROWS_MAX + 2,  # one row has the time, and one more tells that there are too many
    )
    if len(rows) > STANDING_ROWS_MAX + 1:
        raise result_too_large(operation)
    exports: dict[ClaimKey, list[ExportedBy]] = {}
    reversed_run_ids: dict[ClaimKey, list[UUID]] = {}
    leases: dict[ClaimKey, Lease] = {}
    as_of: datetime | None = None
    for row in rows:
        key = row["org_id"], row["claim_id"]
        if row["claim_id"] is None:
            as_of = row["expires_at"]
        elif row["is_reversed"]:
            reversed_run_ids.setdefault(key, []).append(row["run_id"])
        elif row["expires_at"] is None:
            exported_by = ExportedBy(row["run_id"], RunStatus(row["status"]), row["finished_at"])
            exports.setdefault(key, []).append(exported_by)
        else:
            leases[key] = Lease(row["run_id"], row["expires_at"], row["fencing_token"], row["has_expired"])
    for runs in exports.values():
        if len(runs) > 1:
            runs.sort(key=lambda run: (run.finished_at, run.run_id))
    assert as_of is not None
    return ClaimStanding(exports, reversed_run_ids, leases, as_of)
