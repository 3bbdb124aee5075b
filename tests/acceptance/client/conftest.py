"""The client, and a partner that answers its requests by a script."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from export_runs_client import ExportRuns
from tests.conftest import running_worker
from tests.wire import WAIT_S, Json, Wire
from worker.database.pool import Pool
from worker.settings import WorkerSettings


@pytest.fixture
async def runs(amqp_url: str) -> AsyncIterator[ExportRuns]:
    """A client that is patient: the machine does other work too."""
    async with ExportRuns.connect(amqp_url, timeout_s=WAIT_S) as runs:
        yield runs


@dataclass
class Partner:
    """Takes requests out of their queues in place of a worker."""

    wire: Wire
    taken: list[AbstractIncomingMessage] = field(default_factory=list)

    async def take(self, operation: str) -> Json:
        """Wait for a request, and take it out of its queue; its body."""
        self.taken.append(await self.wire.take_from(f"export-runs.rpc.{operation}"))
        body: Json = json.loads(self.taken[-1].body)
        return body

    async def answer(self, **reply: Any) -> None:
        """Reply to the request that was taken last."""
        request = self.taken[-1]
        assert request.reply_to is not None
        message = aio_pika.Message(json.dumps(reply).encode(), correlation_id=request.correlation_id)
        await self.wire.channel.default_exchange.publish(message, request.reply_to, mandatory=False)

    async def refuse(self, code: str, *details: Json) -> None:
        """Reply to the request that was taken last with an error."""
        retryable = code == "UNAVAILABLE"
        error = {"code": code, "message": "no", "retryable": retryable, "details": details}
        await self.answer(ok=False, error=error)


@pytest.fixture
async def partner(settings: WorkerSettings, pool: Pool, amqp_url: str) -> AsyncIterator[Partner]:
    """A partner on queues that a worker has declared, and that no worker consumes now."""
    async with Wire.connect(amqp_url) as wire:
        async with running_worker(settings, pool):
            await wire.ready()
        yield Partner(wire)


async def settled(*tasks: asyncio.Task[Any]) -> None:
    """Wait until tasks have ended, however they end."""
    await asyncio.wait(tasks, timeout=WAIT_S)
    assert all(task.done() for task in tasks)
