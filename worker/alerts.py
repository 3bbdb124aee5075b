"""The way of an alert: outbox, publish, confirm, out of the outbox."""

import asyncio
from typing import Final
from uuid import uuid4

import aio_pika
import structlog

from handlers.double_exports import mark_alerts, unpublished_alerts
from schema import names
from schema.alerts import DOUBLE_EXPORT_DETECTED, DoubleExportDetected
from worker.amqp import Link, SessionLost, publish
from worker.backoff import delays_s, wait
from worker.database import Database, Failure, meaning_of
from worker.logs import describe

ALERTS_INTERVAL_S: Final = 1.0
"""How long an alert waits in the outbox at most, if nothing is broken."""

ALERTS_BATCH_MAX: Final = 100
"""Alerts published in one transaction. What was published and not committed is published again."""

BATCH_TIMEOUT_S: Final = 5
"""What is not confirmed by then waits: PostgreSQL ends a transaction that stands still for longer."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def publish_alerts(link: Link, database: Database, stopping: asyncio.Event) -> None:
    """Publish alerts until `stopping` is set. Raises SessionLost where the connection is lost.

    Of several workers one publishes at a time, each alert after those before it: their order holds.
    """
    delays = delays_s()
    while not stopping.is_set():
        delay_s = ALERTS_INTERVAL_S
        try:
            alerts, published = await _publish_some(link, database)
            if alerts and not published:
                log.warning("alerts_not_confirmed", alerts=alerts)
                delay_s += next(delays)
            else:
                delays = delays_s()
                if published == ALERTS_BATCH_MAX:
                    continue
        except SessionLost:
            raise
        except Exception as error:  # noqa: BLE001 -- nobody's events and requests need wait for alerts
            if meaning_of(error) is not Failure.UNAVAILABLE:
                log.error("alerts_failed", **describe(error))
            delay_s += next(delays)
        await wait(stopping, delay_s)


async def _publish_some(link: Link, database: Database) -> tuple[int, int]:
    """How many alerts were to be published, and how many of them, from the first on, were confirmed.

    They are marked first: where nothing can be written nothing is published, over and over.
    """
    until = asyncio.get_running_loop().time() + BATCH_TIMEOUT_S
    async with database.connection() as connection, connection.transaction():
        alerts = await unpublished_alerts(connection, ALERTS_BATCH_MAX) or []
        if alerts:
            await mark_alerts(connection, alerts, published=True)
        published = 0
        for alert in alerts:
            left_s = until - asyncio.get_running_loop().time()
            message = _message(alert)
            if left_s <= 0 or not await publish(link, names.ALERTS_EXCHANGE, DOUBLE_EXPORT_DETECTED, message, left_s):
                break
            published += 1
        if published < len(alerts):
            await mark_alerts(connection, alerts[published:], published=False)
    for alert in alerts[:published]:
        log.warning("double_export_detected", id=alert.id, found_by=alert.found_by, run_id=str(alert.second_run_id))
    return len(alerts), published


def _message(alert: DoubleExportDetected) -> aio_pika.Message:
    return aio_pika.Message(
        alert.model_dump_json().encode(),
        content_type=names.CONTENT_TYPE,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        type=DOUBLE_EXPORT_DETECTED,
        message_id=str(uuid4()),
    )
