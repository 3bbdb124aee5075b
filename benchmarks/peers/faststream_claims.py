"""FastStream RPC with asyncpg: answers which claims have gone out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID

import asyncpg
import uvloop
from faststream import Context, ContextRepo, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from pydantic import BaseModel, Field

from benchmarks.peers.environment import CLAIMS_QUEUE, amqp_url, database_url, prefetch
from benchmarks.statements import statement

# Without logger=None it logs every message.
broker = RabbitBroker(amqp_url(), default_channel=Channel(prefetch_count=prefetch()), logger=None)


class CheckClaims(BaseModel):
    """A request."""

    org_id: str = Field(alias="orgId")
    claim_ids: list[str] = Field(alias="claimIds")


class ExportedBy(BaseModel):
    """A run that exported a claim."""

    run_id: UUID = Field(serialization_alias="runId")
    status: str
    finished_at: datetime = Field(serialization_alias="finishedAt")


class ExportedClaim(BaseModel):
    """A claim that has gone out."""

    claim_id: str = Field(serialization_alias="claimId")
    runs: list[ExportedBy]


class CheckedClaims(BaseModel):
    """A reply."""

    exported: list[ExportedClaim]
    unexported: list[str]


@asynccontextmanager
async def lifespan(context: ContextRepo) -> AsyncIterator[None]:
    """Keep a pool of connections while the application runs."""
    async with asyncpg.create_pool(database_url()) as pool:
        context.set_global("pool", pool)
        yield


app = FastStream(broker, lifespan=lifespan)


@broker.subscriber(RabbitQueue(CLAIMS_QUEUE, declare=False))
async def check(request: CheckClaims, pool: Annotated[asyncpg.Pool, Context()]) -> CheckedClaims:
    """Split the claims into exported and unexported ones. FastStream sends what this returns as the reply."""
    rows = await pool.fetch(statement("peer_check_claims"), request.org_id, request.claim_ids)
    runs: dict[str, list[ExportedBy]] = {}
    for row in rows:
        exported_by = ExportedBy(run_id=row["run_id"], status=row["status"], finished_at=row["finished_at"])
        runs.setdefault(row["claim_id"], []).append(exported_by)
    return CheckedClaims(
        exported=[ExportedClaim(claim_id=claim, runs=runs[claim]) for claim in request.claim_ids if claim in runs],
        unexported=[claim for claim in request.claim_ids if claim not in runs],
    )


if __name__ == "__main__":
    uvloop.run(app.run())
