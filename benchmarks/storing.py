"""What PostgreSQL stores by the worker's own statements, with no RabbitMQ: the ceiling of the rows about events."""

import asyncio
from time import perf_counter

from benchmarks.bench import Bench
from benchmarks.databases import create_empty
from benchmarks.wire import new_events
from handlers.events import merge_finished
from schema.decoding import decode
from schema.events import RunFinished
from sql.connection import transaction
from worker.database.pool import open_pool
from worker.limits import DEFAULT_LIMITS
from worker.settings import DatabaseSettings


async def storing_rate(bench: Bench) -> float:
    """Events stored per second by two writers, as in a worker, each with organisations of its own.

    Events are decoded before time runs.
    """
    of_writer: tuple[list[RunFinished], list[RunFinished]] = ([], [])
    for body in new_events(bench.sizes.drained_events):
        event = decode(RunFinished, body)
        of_writer[int(event.org_id.removeprefix("org-")) % 2].append(event)
    settings = DatabaseSettings.model_validate({"database_url": await create_empty(bench.services)})

    async def write(events: list[RunFinished]) -> None:
        size = DEFAULT_LIMITS.batch_events_max
        async with pool.acquire() as connection:
            for first in range(0, len(events), size):
                async with transaction(connection):
                    await merge_finished(connection, events[first : first + size])

    async with open_pool(settings, len(of_writer)) as pool:
        start_s = perf_counter()
        await asyncio.gather(*map(write, of_writer))
        return bench.sizes.drained_events / (perf_counter() - start_s)
