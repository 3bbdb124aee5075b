"""The way of a request: queue, decode, wait, handler, ack, reply.

Requests that wait while a query runs share the next one; a lone request goes at once, and no timer delays it.

A request is acknowledged when its work is done, just before the reply: one that a dying worker was at is worked on
by another, and one whose reply the broker chokes on does not come back. Reading twice does no harm, and writes are
safe to repeat, all but a `create-export-run` without a `runId`.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

import structlog

from handlers.errors import RequestRefused
from schema import names
from schema.decoding import InvalidBody, decode
from schema.errors import ErrorCode, FieldError
from schema.replies import ErrorBody, ErrorReply
from worker.amqp import Delivery, Link, ack, reply, start_consuming, stop_consuming
from worker.database import Database, Failure, meaning_of
from worker.logs import describe
from worker.reply_addresses import may_reply_to
from worker.routes import RequestRoute
from worker.waiting import Asked, Waiting

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
        database: Database,
        default_deadline_s: float,
        reply_queue_prefixes: tuple[str, ...],
    ) -> None:
        self._route = route
        self._consuming = consuming
        self._answering = answering
        self._database = database
        self._default_deadline_s = default_deadline_s
        self._reply_queue_prefixes = (names.SERVER_NAMED_PREFIX, *reply_queue_prefixes)
        self._waiting = Waiting(large_max=max(1, route.queries_max // 2))
        self._unanswered: dict[Asked, asyncio.TimerHandle] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._log = log.bind(operation=route.operation.name)

    async def run(self, stopping: asyncio.Event) -> None:
        """Answer until `stopping` is set; what is in hand by then is answered."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._route.queries_max):
                    tasks.create_task(self._answer_what_waits())
                queue = names.rpc_queue(self._route.operation.name)
                consumer_tag = await start_consuming(self._consuming, queue, self._route.held_max, self._take)
                await stopping.wait()
                await stop_consuming(self._consuming, consumer_tag)
                self._waiting.close()
            await asyncio.gather(*self._sending)
        finally:
            for timer in self._unanswered.values():
                timer.cancel()

    def _take(self, delivery: Delivery) -> None:
        properties = delivery.header.properties
        if not properties.reply_to or not may_reply_to(properties.reply_to, self._reply_queue_prefixes):
            self._log_of(delivery).warning("request_without_usable_reply_to", given=bool(properties.reply_to))
            self._start(ack(delivery))
            return
        try:
            if not properties.correlation_id:
                raise InvalidBody(FieldError(field="correlation_id", message="is required"))
            request = decode(self._route.operation.request, delivery.body)
        except InvalidBody as invalid:
            body = _error(ErrorCode.INVALID_REQUEST, "the request is not valid", *invalid.details)
            self._start(self._settle((delivery, body)))
            return
        deadline_s = int(properties.expiration) / 1000 if properties.expiration else self._default_deadline_s
        loop = asyncio.get_running_loop()
        expires_at = loop.time() + deadline_s - min(deadline_s * REPLY_MARGIN_SHARE, REPLY_MARGIN_MAX_S)
        asked = Asked(delivery, request, self._route.size(request), expires_at)
        self._unanswered[asked] = loop.call_at(expires_at, self._expire, asked)
        self._waiting.put(asked)

    def _expire(self, asked: Asked) -> None:
        """The caller is about to give up: it gets UNAVAILABLE while it still listens."""
        self._log_of(asked.delivery).warning("request_timed_out")
        self._waiting.drop(asked)  # its place in the prefetch is free now, and taken by another
        self._start(self._reply({asked: _error(ErrorCode.UNAVAILABLE, "the answer did not come in time")}))

    async def _answer_what_waits(self) -> None:
        while together := await self._waiting.take():
            if still_wanted := [asked for asked in together if asked in self._unanswered]:
                await self._answer(still_wanted)
            self._waiting.done(together)

    async def _answer(self, together: Sequence[Asked]) -> None:
        """Answer requests with one query, unless the last of their callers gives up before it is over."""
        work = asyncio.create_task(self._bodies(together))
        left_s = max(asked.expires_at for asked in together) - asyncio.get_running_loop().time()
        # Not asyncio.timeout: a database that hangs also delays the clean-up after it, and others wait.
        try:
            done, _ = await asyncio.wait({work}, timeout=left_s)
        finally:
            work.cancel()
        if done:
            await self._reply(dict(zip(together, work.result(), strict=True)))

    async def _bodies(self, together: Sequence[Asked]) -> list[bytes]:
        """The body of each request's reply."""
        try:
            async with self._database.connection() as connection:
                results = await self._route.answer(connection, [asked.request for asked in together])
            return [b'{"ok":true,"result":%b}' % result.model_dump_json().encode() for result in results]
        except Exception as error:  # noqa: BLE001 -- whatever it is, the callers get an answer
            if meaning_of(error) is Failure.UNAVAILABLE:
                return [_error(ErrorCode.UNAVAILABLE, "the database cannot be reached; try again")] * len(together)
            if len(together) > 1:  # one of them is to blame; the others need not know
                return [body for asked in together for body in await self._bodies([asked])]
            if isinstance(error, RequestRefused):
                return [_error(error.code, error.message, *error.details)]
            self._log_of(together[0].delivery).error("request_failed", **describe(error))
            return [_error(ErrorCode.INTERNAL, "the service failed; it has been logged")]

    async def _reply(self, bodies: Mapping[Asked, bytes]) -> None:
        """Settle requests, except those that are settled already."""
        answers: list[tuple[Delivery, bytes]] = []
        for asked, body in bodies.items():
            timer = self._unanswered.pop(asked, None)
            if timer is not None:
                timer.cancel()
                answers.append((asked.delivery, body))
        if answers:
            await self._settle(*answers)

    async def _settle(self, *answers: tuple[Delivery, bytes]) -> None:
        """Ack, then reply."""
        await ack(*(delivery for delivery, _ in answers))
        await reply(self._answering, answers)

    def _start(self, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _log_of(self, delivery: Delivery) -> structlog.typing.FilteringBoundLogger:
        return self._log.bind(correlation_id=delivery.header.properties.correlation_id)


def _error(code: ErrorCode, message: str, *details: FieldError) -> bytes:
    body = ErrorBody(code=code, message=message, retryable=code.retryable, details=list(details))
    return ErrorReply(error=body).model_dump_json().encode()
