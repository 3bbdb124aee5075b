"""The way of an alert: out of the outbox for some seconds, publish, confirm, remove it from the outbox.

No transaction is open while RabbitMQ is waited for. Organisations take turns, and an alert that is not confirmed waits
by itself, longer each time, so no alert waits behind another one.
"""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import aio_pika
import structlog

from handlers.alerts import TakenAlert, next_turn, postpone_alerts, remove_alerts, take_alerts
from handlers.query_arguments import PostponedAlert
from schema import names
from schema.alerts import DOUBLE_EXPORT_DETECTED
from sql.connection import Connection
from worker import metrics
from worker.broker.blocked_connections import is_blocked
from worker.broker.link import SessionLost
from worker.broker.publisher import Publisher, Unroutable
from worker.database.errors import meaning_of
from worker.database.pool import Database
from worker.limits import WorkerLimits
from worker.logs import describe
from worker.retries import delays_s, wait

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def retry_delay_s(attempts: int, limits: WorkerLimits) -> float:
    """How long an alert waits that was not confirmed so often: twice as long each time."""
    return min(limits.alert_delay_first_s * 2.0 ** min(attempts - 1, 32), limits.alert_delay_max_s)


class AlertOutbox:
    """Publishes the alerts that handlers put into the outbox. Several workers can do so at one time."""

    def __init__(self, publisher: Publisher, database: Database, limits: WorkerLimits, stopping: asyncio.Event) -> None:
        self._publisher = publisher
        self._database = database
        self._limits = limits
        self._stopping = stopping
        self._last_org_id: str | None = None
        """Of the turn before; None where a round begins, in which each organisation has its turn."""
        self._has_taken_in_round = False

    async def run(self) -> None:
        """Publish alerts until the worker stops. Raises SessionLost where the connection is lost."""
        limits = self._limits
        delays = delays_s(limits.retry_delay_first_s, limits.retry_delay_max_s)
        while not self._stopping.is_set():
            delay_s = limits.alerts_interval_s
            try:
                if await self._publish_next():
                    delay_s = 0
                delays = delays_s(limits.retry_delay_first_s, limits.retry_delay_max_s)
            except SessionLost:
                raise
            except Exception as error:  # noqa: BLE001 -- events and requests go on whatever happens to alerts
                if not meaning_of(error).is_temporary:
                    log.error("alerts_failed", **describe(error))
                delay_s += next(delays)
            await wait(self._stopping, delay_s)

    async def _publish_next(self) -> bool:
        """Publish some alerts of the organisations whose turn it is; returns whether to go on without a pause: others
        have not had their turn in this round, or an alert was taken in it, and there may be more.
        """
        limits = self._limits
        if await is_blocked(self._publisher.link):
            return False
        async with self._database.connection() as connection:
            turn = await next_turn(connection, self._last_org_id or "", limits.alert_organisations_max)
            taken = await self._take(connection, turn.due_org_ids) if turn.due_org_ids else []
        self._last_org_id = turn.last_org_id
        self._has_taken_in_round |= bool(taken)
        if taken:
            await self._publish_all(taken)
        if self._last_org_id is not None:
            return True
        has_taken, self._has_taken_in_round = self._has_taken_in_round, False
        return has_taken

    async def _take(self, connection: Connection, org_ids: Sequence[str]) -> list[TakenAlert]:
        """Some alerts of each organisation; none where one of its alerts cannot be read: the others get their turn."""
        limits = self._limits
        try:
            return await take_alerts(connection, org_ids, limits.alerts_of_organisation_max, limits.alert_taken_s)
        except Exception as error:
            if meaning_of(error).is_temporary:
                raise
            if len(org_ids) > 1:
                return [alert for org_id in org_ids for alert in await self._take(connection, [org_id])]
            log.error("alerts_failed", org_id=org_ids[0], **describe(error))
            return []

    async def _publish_all(self, taken: Sequence[TakenAlert]) -> None:
        """Publish alerts, and note what became of each. Raises SessionLost where the connection was lost.

        All have one routing key: where the first finds no subscriber, none of them does, and all go to the queue of
        alerts. One that finds none later, because the last subscriber has left meanwhile, is not confirmed.
        """
        first, *others = taken
        outcomes = await self._publish_at_one_time([first], names.ALERTS_EXCHANGE)
        if isinstance(outcomes[0], Unroutable):
            outcomes = await self._publish_at_one_time(taken, names.UNROUTABLE_ALERTS_EXCHANGE)
        else:
            later = await self._publish_at_one_time(others, names.ALERTS_EXCHANGE)
            outcomes += [False if isinstance(outcome, Unroutable) else outcome for outcome in later]
        published = [each for each, outcome in zip(taken, outcomes, strict=True) if outcome is True]
        others = [each for each, outcome in zip(taken, outcomes, strict=True) if outcome is not True]
        async with self._database.connection() as connection:
            if published:
                await remove_alerts(connection, [each.key for each in published])
            if others:
                postponed = [PostponedAlert(*each.key, retry_delay_s(each.attempts, self._limits)) for each in others]
                await postpone_alerts(connection, postponed)
        for each in published:
            metrics.DOUBLE_EXPORTS_FOUND.inc(each.alert.claim_count)
            log.warning(
                "double_export_detected",
                event_id=str(each.alert.event_id),
                run_id=str(each.alert.run_id),
                claims=each.alert.claim_count,
                found_by=each.alert.found_by,
            )
        if others:
            log.warning("alerts_not_confirmed", alerts=len(others), attempts=max(each.attempts for each in others))
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _publish_at_one_time(self, alerts: Sequence[TakenAlert], exchange: str) -> list[bool | BaseException]:
        """Publish alerts, none after another's confirm. Returns whether RabbitMQ confirmed each, or what was raised."""
        timeout_s = self._limits.alert_publish_timeout_s
        publish = self._publisher.publish
        return await asyncio.gather(
            *(publish(exchange, DOUBLE_EXPORT_DETECTED, _message(each), timeout_s) for each in alerts),
            return_exceptions=True,
        )


def _message(taken: TakenAlert) -> aio_pika.Message:
    return aio_pika.Message(
        taken.alert.model_dump_json().encode(),
        headers=taken.trace_context and {**taken.trace_context.headers},
        content_type=names.CONTENT_TYPE,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        type=DOUBLE_EXPORT_DETECTED,
        message_id=str(uuid4()),  # of its own each time: confirms and returns are matched by it
    )
