"""What tests of `export-runs dead-letters` share: how to make dead letters, and how to run the command."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from tests.commands import Finished
from tests.forked import forked_export_runs
from tests.wire import Json, Wire, next_message
from worker.broker.declaration import declare
from worker.settings import WorkerSettings

CREATED_DEAD = "export-runs.run-created.dead"
FINISHED_DEAD = "export-runs.run-finished.dead"
UNROUTABLE = "export-runs.unroutable"


@pytest.fixture
async def queues(wire: Wire) -> AsyncIterator[None]:
    """The queues that a worker declares, without a worker. They are declared again after the test."""
    await declare(wire.channel)
    yield
    await declare(wire.channel)


@pytest.fixture
async def published(wire: Wire, queues: None) -> AsyncIterator[AbstractQueue]:
    """A queue that gets a copy of every published event."""
    queue = await wire.channel.declare_queue(exclusive=True)
    await queue.bind("export-runs.events", "#")
    yield queue
    await queue.delete(if_unused=False, if_empty=False)


async def tool(*arguments: str, settings: WorkerSettings, **variables: str) -> Finished:
    """Run `export-runs dead-letters ...`, which must never print a traceback."""
    finished = await forked_export_runs("dead-letters", *arguments, settings=settings, **variables)
    assert "Traceback" not in finished.err, finished.err
    return finished


async def listed(settings: WorkerSettings, *arguments: str) -> list[Json]:
    """The dead letters that `list --json` prints."""
    finished = await tool("list", "--json", *arguments, settings=settings)
    assert finished.code == 0, finished.err
    letters: list[Json] = json.loads(finished.out)["deadLetters"]
    return letters


async def die(
    wire: Wire,
    body: Json | bytes,
    *,
    event_type: str = "run-created",
    code: str = "UNSTORABLE",
    age: timedelta = timedelta(0),
    headers: Json | None = None,
    **properties: Any,
) -> str:
    """Publish a dead letter as a worker does. Returns its message id."""
    message_id = properties.pop("message_id", str(uuid4()))
    errors = {
        "x-error-code": code,
        "x-error-detail": f"{code} it was",
        "x-failed-at": (datetime.now(UTC) - age).isoformat(),
        "x-original-queue": f"export-runs.{event_type}",
    }
    await wire.publish(
        event_type,
        body,
        exchange="export-runs.dead-letter",
        headers={**errors, **(headers or {})},
        message_id=message_id,
        **properties,
    )
    return str(message_id)


async def until_published(queue: AbstractQueue, count: int) -> list[AbstractIncomingMessage]:
    """Wait until a queue has this many messages, and take them out."""
    return [await next_message(queue) for _ in range(count)]


def errors_of(message: AbstractIncomingMessage) -> list[str]:
    """The errors of a replayed message."""
    errors = message.headers["x-replayed-errors"]
    assert isinstance(errors, list)
    return [str(error) for error in errors]
