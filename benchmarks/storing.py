"""What PostgreSQL stores by the worker's own statements, with no RabbitMQ: the ceiling of the rows about events."""

import asyncio
from time import perf_counter
from typing import Final
from uuid import uuid4

from benchmarks.bench import Bench
from benchmarks.databases import create_empty
from benchmarks.wire import finished_event
from handlers.events import merge_finished
from schema.decoding import decode
from schema.events import RunFinished
from sql.connection import transaction
from worker.database.pool import Pool, open_pool
from worker.limits import DEFAULT_LIMITS
from worker.settings import DatabaseSettings

WRITERS: Final = 2
"""As in a worker, each with organisations of its own."""


async def storing_rates(bench: Bench) -> tuple[float, float]:
    """Events stored per second: new ones, and then as many new runs with the same claims. Each is a double export."""
    run_ids = [uuid4() for _ in range(bench.sizes.drained_events)]
    settings = DatabaseSettings.model_validate({"database_url": await create_empty(bench.services)})
    async with open_pool(settings, WRITERS) as pool:
        new = await _storing_rate(pool, [finished_event(each, each) for each in run_ids])
        return new, await _storing_rate(pool, [finished_event(uuid4(), each) for each in run_ids])


async def _storing_rate(pool: Pool, bodies: list[bytes]) -> float:
    """Events are decoded before time runs."""
    of_writer: tuple[list[RunFinished], ...] = tuple([] for _ in range(WRITERS))
    for body in bodies:
        event = decode(RunFinished, body)
        of_writer[int(event.org_id.removeprefix("org-")) % WRITERS].append(event)

    async def write(events: list[RunFinished]) -> None:
        size = DEFAULT_LIMITS.batch_events_max
        async with pool.acquire() as connection:
            for first in range(0, len(events), size):
                async with transaction(connection):
                    await merge_finished(connection, events[first : first + size])

    start_s = perf_counter()
    await asyncio.gather(*map(write, of_writer))
    return len(bodies) / (perf_counter() - start_s)
