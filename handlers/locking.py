"""The locks that writers take, and the one order they take them in, so that they never wait in a circle.

1. Runs: every event, request and command that changes a run.
2. Claims: whoever exports or reserves them, and whoever resolves a double export. So of two runs that want one claim,
   one sees what the other did. To release a claim needs no lock on it.
3. Ids in the event log. Only events can meet another writer there. A request or a command makes a new id, for which
   nobody waits, so it may append to the log at any later time. An entry gets its place in the log when it has its
   locks: so the order of the log is the order in which the entries of a run, or of a claim, took effect.
4. Rows: of each table in the order of its keys.

Each lock is held until the transaction ends. Runs and claims are advisory locks: sql/advisory_locks.md lists them.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, TypeAlias
from uuid import UUID

import sql
from sql.connection import Connection

from .query_arguments import OrganisationClaims, column_arrays, joined

ClaimsToLock: TypeAlias = tuple[str, Collection[str]]
"""An organisation, and ids of its claims."""

LOCKS_PER_ORGANISATION_MAX: Final = 8
"""The claims of an organisation share so many locks, by their hash. So the largest event takes no more than these,
keeps nobody of another organisation waiting, and leaves room in PostgreSQL's lock table, which holds
`max_locks_per_transaction` times all processes, 7,808 by default, for all transactions together. With more of them a
batch would hold fewer events (docs/decisions/claim-locks.md)."""


async def lock_runs(connection: Connection, run_ids: Sequence[UUID]) -> None:
    """Keep others from ending, hiding or purging these runs, and from reserving for them. They need not exist yet."""
    await connection.execute(sql.query("lock_runs"), run_ids)


async def lock_runs_and_claims(connection: Connection, run_ids: Sequence[UUID], claims: Iterable[ClaimsToLock]) -> None:
    """Lock runs as lock_runs does, and keep others from exporting or reserving claims."""
    await connection.execute(sql.query("lock_runs_and_claims"), run_ids, *claim_columns(claims))


def claim_columns(claims: Iterable[ClaimsToLock]) -> list[tuple[object, ...]]:
    """Claims as the last two parameters of the statements that lock them."""
    texts = [OrganisationClaims(org_id, joined(claim_ids)) for org_id, claim_ids in claims if claim_ids]
    return column_arrays(texts) if texts else [(), ()]


def locks_max(runs: int, claims_per_organisation: Iterable[int]) -> int:
    """How many locks a transaction takes at most for so many runs, and for so many claims of each organisation."""
    return runs + sum(min(claims, LOCKS_PER_ORGANISATION_MAX) for claims in claims_per_organisation)
