"""A broker that is short of memory or disk takes nothing from connections that publish (RabbitMQ guide, Alarms)."""

import asyncio
from typing import Final

import structlog

from worker.amqp import Link
from worker.backoff import wait

LOOK_INTERVAL_S: Final = 1.0
LOOK_TIMEOUT_S: Final = 0.1

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def tell_of_alarms(link: Link, purpose: str, stopping: asyncio.Event) -> None:
    """Log when the broker blocks a connection, and when it does no more, until `stopping` is set.

    Nothing is lost by it and nobody need do anything here: what is published waits.
    """
    told = False
    while not await wait(stopping, LOOK_INTERVAL_S):
        blocked = await _is_blocked(link)
        if blocked and not told:
            log.warning("connection_blocked", purpose=purpose)
        if told and not blocked:
            log.info("connection_unblocked", purpose=purpose)
        told = blocked


async def _is_blocked(link: Link) -> bool:
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            await link.underlay.connection.ready()
    except TimeoutError:
        return True
    return False
