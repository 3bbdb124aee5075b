"""The way of an alert: outbox, publish, confirm, out of the outbox."""

import asyncio
from contextlib import suppress
from typing import Final
from uuid import uuid4

import aio_pika
import structlog

from handlers.double_exports import mark_alerts_published, unpublished_alerts
from schema import names
from schema.alerts import DOUBLE_EXPORT_DETECTED, DoubleExportDetected
from worker.amqp import CONNECTION_ERRORS, Link, SessionLost
from worker.backoff import delays_s
from worker.cancellation import is_being_cancelled
from worker.database import Database, Failure, meaning_of

ALERTS_INTERVAL_S: Final = 1.0
"""How long an alert waits in the outbox at most, if nothing is broken."""

ALERTS_BATCH_MAX: Final = 100
"""Alerts published in one transaction. What was published and not committed is published again."""

PUBLISH_TIMEOUT_S: Final = 5

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def publish_alerts(link: Link, database: Database, stopping: asyncio.Event) -> None:
    """Publish alerts until `stopping` is set. Raises SessionLost where the connection is lost.

    Of several workers one publishes at a time, each alert after those before it: their order holds.
    """
    delays = delays_s()
    while not stopping.is_set():
        delay_s = ALERTS_INTERVAL_S
        try:
            if await _publish_some(link, database) == ALERTS_BATCH_MAX:
                continue
            delays = delays_s()
        except Exception as error:
            if meaning_of(error) is not Failure.UNAVAILABLE:
                raise
            delay_s += next(delays)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), delay_s)


async def _publish_some(link: Link, database: Database) -> int:
    async with database.connection() as connection, connection.transaction():
        alerts = await unpublished_alerts(connection, ALERTS_BATCH_MAX)
        for alert in alerts or []:
            await _publish(link, alert)
        if alerts:
            await mark_alerts_published(connection, alerts)
    for alert in alerts or []:
        log.warning("double_export_detected", id=alert.id, found_by=alert.found_by, run_id=str(alert.second_run_id))
    return len(alerts or [])


async def _publish(link: Link, alert: DoubleExportDetected) -> None:
    message = aio_pika.Message(
        alert.model_dump_json().encode(),
        content_type=names.CONTENT_TYPE,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        type=DOUBLE_EXPORT_DETECTED,
        message_id=str(uuid4()),
    )
    try:
        async with asyncio.timeout(PUBLISH_TIMEOUT_S):
            exchange = await link.channel.get_exchange(names.ALERTS_EXCHANGE, ensure=False)
            await exchange.publish(message, DOUBLE_EXPORT_DETECTED, mandatory=True)
    except TimeoutError:
        raise  # a broker that is short of memory: no reason to end the session, it is tried again
    except CONNECTION_ERRORS as error:
        raise SessionLost(f"an alert was not confirmed: {type(error).__name__}") from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        # Nobody cancelled us: aiormq says so of a connection whose heartbeat failed.
        raise SessionLost("the connection for publishing closed") from error
