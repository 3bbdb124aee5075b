"""FastStream with asyncpg: each event is one transaction of plain INSERTs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID

import asyncpg
import uvloop
from faststream import AckPolicy, Context, ContextRepo, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from pydantic import BaseModel, Field

from benchmarks.peers.environment import EVENTS_QUEUE, amqp_url, database_url, prefetch
from benchmarks.statements import statement

# Without logger=None it logs every message.
broker = RabbitBroker(amqp_url(), default_channel=Channel(prefetch_count=prefetch()), logger=None)


class RunFinished(BaseModel):
    """The fields of the event."""

    run_id: UUID = Field(alias="runId")
    org_id: str = Field(alias="orgId")
    occurred_at: datetime = Field(alias="occurredAt")
    status: str
    claim_ids: list[str] = Field(alias="claimIds")
    external_ack_id: str = Field(alias="externalAckId")


@asynccontextmanager
async def lifespan(context: ContextRepo) -> AsyncIterator[None]:
    """Keep a pool of connections while the application runs."""
    async with asyncpg.create_pool(database_url()) as pool:
        context.set_global("pool", pool)
        yield


app = FastStream(broker, lifespan=lifespan)


@broker.subscriber(RabbitQueue(EVENTS_QUEUE, declare=False), ack_policy=AckPolicy.NACK_ON_ERROR)
async def store(event: RunFinished, pool: Annotated[asyncpg.Pool, Context()]) -> None:
    """Store one event in one transaction. FastStream acknowledges it when this returns."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            statement("peer_insert_run"),
            event.run_id,
            event.org_id,
            event.occurred_at,
            event.status,
            event.external_ack_id,
            len(event.claim_ids),
        )
        await connection.execute(statement("peer_insert_claims"), event.claim_ids, event.org_id, event.run_id)


if __name__ == "__main__":
    uvloop.run(app.run())
