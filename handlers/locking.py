"""The locks that writers take, in one order on every path: log ids, runs, claims, then rows.

Each is held until the transaction ends. Whoever exports or reserves a claim holds its lock: so of two runs that
want it, one sees what the other did. Releasing needs none: it only frees.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final
from uuid import UUID

import sql

from .connection import Connection

CLAIM_LOCKS_MAX: Final = 4_096
"""With more claims than this a transaction locks all claims with one lock. PostgreSQL's lock table has room for
`max_locks_per_transaction` times `max_connections`, 6,400 by default, for everybody together."""

SEPARATOR: Final = "\x1f"
"""U+001F, the unit separator, joins claim ids to one text, which asyncpg encodes far faster than an array. Neither
claim ids nor reasons may hold it (schema.fields)."""


async def lock_runs(connection: Connection, run_ids: Sequence[UUID]) -> None:
    """Keep others from finishing these runs, and from reserving for them. They need not exist yet."""
    await connection.execute(sql.query("lock_runs"), run_ids)


async def lock_runs_and_claims(
    connection: Connection, run_ids: Sequence[UUID], claims: Iterable[tuple[str, Collection[str]]]
) -> None:
    """The same, and keep others from exporting or reserving claims, given as (organisation, claim ids)."""
    given = [(org_id, claim_ids) for org_id, claim_ids in claims if claim_ids]
    if given and sum(len(claim_ids) for _, claim_ids in given) <= CLAIM_LOCKS_MAX:
        org_ids, texts = zip(*((org_id, SEPARATOR.join(claim_ids)) for org_id, claim_ids in given), strict=True)
        await connection.execute(sql.query("lock_runs_and_claims"), run_ids, org_ids, texts)
        return
    await lock_runs(connection, run_ids)
    if given:
        await connection.execute(sql.query("lock_all_claims"))
