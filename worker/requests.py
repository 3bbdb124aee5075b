"""The way of a request: queue, decode, handler, ack, reply.

A request is acknowledged when its work is done, just before the reply: one that a dying worker was at is worked on
by another, and one whose reply the broker chokes on does not come back. Reading twice does no harm, and writes are
safe to repeat, all but a `create-export-run` without a `runId`.
"""

import asyncio
from typing import Any, Final

import structlog
from aiormq import spec

from handlers.errors import RequestRefused
from schema import names
from schema.decoding import InvalidBody, decode
from schema.errors import ErrorCode, FieldError
from schema.replies import ErrorBody, ErrorReply
from worker.amqp import CONNECTION_ERRORS, Delivery, Link, ack, start_consuming, stop_consuming
from worker.database import ACQUIRE_TIMEOUT_S, Failure, Pool, meaning_of
from worker.logs import describe
from worker.reply_addresses import may_reply_to
from worker.routes import RequestRoute

REPLY_MARGIN_SHARE: Final = 0.2
REPLY_MARGIN_MAX_S: Final = 1.0
"""What is kept of a deadline for the reply's own way: a fifth of it, but no more than a second."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class RequestServer:
    """Answers the requests of one operation."""

    def __init__(
        self,
        route: RequestRoute[Any, Any],
        consuming: Link,
        answering: Link,
        pool: Pool,
        default_deadline_s: float,
        reply_queue_prefixes: tuple[str, ...],
    ) -> None:
        self._route = route
        self._consuming = consuming
        self._answering = answering
        self._pool = pool
        self._default_deadline_s = default_deadline_s
        self._reply_queue_prefixes = (names.SERVER_NAMED_PREFIX, *reply_queue_prefixes)
        self._answers: asyncio.TaskGroup | None = None
        self._log = log.bind(operation=route.operation.name)

    async def run(self, stopping: asyncio.Event) -> None:
        """Answer until `stopping` is set; what is being answered by then is answered."""
        try:
            async with asyncio.TaskGroup() as answers:
                self._answers = answers
                consumer_tag = await start_consuming(
                    self._consuming,
                    names.rpc_queue(self._route.operation.name),
                    self._route.concurrency,
                    self._take,
                )
                await stopping.wait()
                await stop_consuming(self._consuming, consumer_tag)
        finally:
            self._answers = None

    def _take(self, delivery: Delivery) -> None:
        if self._answers is not None:  # else the session is over, and the request goes to the next one
            self._answers.create_task(self._answer(delivery))

    async def _answer(self, delivery: Delivery) -> None:
        properties = delivery.header.properties
        reply_to, correlation_id = properties.reply_to, properties.correlation_id
        bound = self._log.bind(correlation_id=correlation_id)
        if not reply_to or not may_reply_to(reply_to, self._reply_queue_prefixes):
            bound.warning("request_without_usable_reply_to", given=bool(reply_to))
            await ack(delivery)
            return
        body = await self._reply_in_time(delivery, bound)
        await ack(delivery)
        await self._publish(body, reply_to, correlation_id)

    async def _reply_in_time(self, delivery: Delivery, bound: structlog.typing.FilteringBoundLogger) -> bytes:
        """The body of the reply; UNAVAILABLE shortly before the caller stops waiting."""
        expiration_ms = delivery.header.properties.expiration
        deadline_s = int(expiration_ms) / 1000 if expiration_ms else self._default_deadline_s
        margin_s = min(deadline_s * REPLY_MARGIN_SHARE, REPLY_MARGIN_MAX_S)
        work = asyncio.create_task(self._reply(delivery, bound))
        # Not asyncio.timeout: a database that hangs also delays the clean-up after it, and the caller waits.
        try:
            done, _ = await asyncio.wait({work}, timeout=deadline_s - margin_s)
        finally:
            work.cancel()
        if done:
            return work.result()
        bound.warning("request_timed_out", deadline_s=deadline_s)
        return _error(ErrorCode.UNAVAILABLE, "the answer did not come in time")

    async def _reply(self, delivery: Delivery, bound: structlog.typing.FilteringBoundLogger) -> bytes:
        try:
            if not delivery.header.properties.correlation_id:
                raise InvalidBody(FieldError(field="correlation_id", message="is required"))
            request = decode(self._route.operation.request, delivery.body)
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                result = await self._route.handle(connection, request)
            return b'{"ok":true,"result":%b}' % result.model_dump_json().encode()
        except InvalidBody as invalid:
            return _error(ErrorCode.INVALID_REQUEST, "the request is not valid", *invalid.details)
        except RequestRefused as refused:
            return _error(refused.code, refused.message, *refused.details)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the caller gets an answer
            if meaning_of(error) is Failure.UNAVAILABLE:
                bound.warning("database_unavailable", **describe(error))
                return _error(ErrorCode.UNAVAILABLE, "the database cannot be reached; try again")
            bound.error("request_failed", **describe(error))
            return _error(ErrorCode.INTERNAL, "the service failed; it has been logged")

    async def _publish(self, body: bytes, reply_to: str, correlation_id: str | None) -> None:
        """Send a reply. A queue that is gone, or a connection, means that nobody can hear it any more."""
        try:
            await self._answering.underlay.basic_publish(
                body,
                exchange="",
                routing_key=reply_to,
                properties=spec.Basic.Properties(content_type=names.CONTENT_TYPE, correlation_id=correlation_id),
                # RabbitMQ 3.10 returns a mandatory direct reply even when it has delivered it.
                mandatory=False,
                wait=False,
            )
        except CONNECTION_ERRORS:
            log.debug("reply_lost")


def _error(code: ErrorCode, message: str, *details: FieldError) -> bytes:
    body = ErrorBody(code=code, message=message, retryable=code.retryable, details=list(details))
    return ErrorReply(error=body).model_dump_json().encode()
