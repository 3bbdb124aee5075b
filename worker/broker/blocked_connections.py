"""RabbitMQ blocks connections that publish when it is short of memory or disk: it reads nothing from them.

https://www.rabbitmq.com/docs/alarms
"""

import asyncio
from typing import Final

import structlog

from worker import metrics
from worker.broker.link import Link
from worker.retries import wait

CHECK_INTERVAL_S: Final = 1.0
CHECK_TIMEOUT_S: Final = 0.1

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def log_blocks(link: Link, purpose: str, stopping: asyncio.Event) -> None:
    """Until `stopping` is set, log when RabbitMQ blocks a connection, and when it reads from it again.

    Nothing is lost, and nothing else is to be done: what is published waits.
    """
    was_blocked = False
    while not await wait(stopping, CHECK_INTERVAL_S):
        blocked = await is_blocked(link)
        if blocked and not was_blocked:
            log.warning("connection_blocked", purpose=purpose)
        if was_blocked and not blocked:
            log.info("connection_unblocked", purpose=purpose)
        if blocked:
            metrics.BLOCKED_SECONDS.labels(purpose).inc(CHECK_INTERVAL_S)
        was_blocked = blocked


async def is_blocked(link: Link) -> bool:
    """Whether RabbitMQ has said that it reads nothing from a connection."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await link.underlay.connection.ready()
    except TimeoutError:
        return True
    return False
