"""How much waits in RabbitMQ's queues and in the database, looked up at intervals for the metrics.

Whoever reads the metrics gets what was looked up last, so a scrape costs neither service anything, and never waits for
one. What cannot be looked up has no number until it can.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from handlers.backlog import count_backlog
from schema import names
from schema.operations import OPERATIONS
from worker import metrics
from worker.broker.link import CONNECTION_ERRORS, Link
from worker.broker.queue_states import queue_states
from worker.broker.topology import TOPOLOGY
from worker.database.errors import meaning_of
from worker.database.pool import Database
from worker.limits import WorkerLimits
from worker.logs import describe
from worker.retries import wait

REQUEST_QUEUES: Final = tuple(names.rpc_queue(operation.name) for operation in OPERATIONS)
OTHER_QUEUES: Final = tuple(queue.name for queue in TOPOLOGY.queues if queue.name not in REQUEST_QUEUES)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def measure_queues(link: Link, limits: WorkerLimits, stopping: asyncio.Event) -> None:
    """Until `stopping` is set, look up how many messages each queue has, and how many consumers."""
    try:
        while not stopping.is_set():
            # Apart, because a classic queue whose node is down gives no answer, and would hide the others.
            for queues in (OTHER_QUEUES, REQUEST_QUEUES):
                await _measure(link, queues)
            await wait(stopping, limits.backlog_interval_s)
    finally:
        _forget([*OTHER_QUEUES, *REQUEST_QUEUES])


async def _measure(link: Link, queues: Sequence[str]) -> None:
    try:
        states = await queue_states(link, queues)
    except CONNECTION_ERRORS as error:
        log.debug("queues_unknown", **describe(error))
        _forget(queues)
        return
    for queue, state in states.items():
        if state is None:
            _forget([queue])
        else:
            metrics.QUEUE_MESSAGES.labels(queue).set(state.messages)
            metrics.QUEUE_CONSUMERS.labels(queue).set(state.consumers)


def _forget(queues: Sequence[str]) -> None:
    for queue in queues:
        metrics.QUEUE_MESSAGES.remove(queue)
        metrics.QUEUE_CONSUMERS.remove(queue)


async def measure_backlog(database: Database, stale_run_s: int, limits: WorkerLimits, stopping: asyncio.Event) -> None:
    """Until `stopping` is set, count what waits for somebody in the database."""
    try:
        while not stopping.is_set():
            try:
                async with database.connection() as connection:
                    backlog = await count_backlog(connection, stale_run_s)
                for kind, number in backlog._asdict().items():
                    metrics.BACKLOG.labels(kind).set(number)
            except Exception as error:  # noqa: BLE001 -- it only measures, and must not end the session
                metrics.BACKLOG.clear()
                if not meaning_of(error).is_temporary:
                    log.error("backlog_failed", **describe(error))
            await wait(stopping, limits.backlog_interval_s)
    finally:
        metrics.BACKLOG.clear()
