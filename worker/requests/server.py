"""The way of a request: receive, queue, query, ack, reply.

Requests that wait while a query runs share the next one. A lone request is queried at once: no timer delays it.

A request is acknowledged when its work is done, just before the reply. So RabbitMQ gives the request of a worker that
dies to another worker, and a reply that breaks the connection is not tried again. To read twice does no harm, and
writes are safe to repeat; a `create-export-run` without a `runId` needs a `message_id` for that.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

import structlog

from handlers.errors import RequestRefused, result_too_large
from schema import names
from schema.decoding import InvalidBody, check_body_size, decode
from schema.errors import ErrorCode, FieldError
from schema.fields import WireModel
from schema.limits import BODY_BYTES_MAX, REPLY_BYTES_MAX
from schema.replies import encode_error_reply, encode_ok_reply, reply_code
from sql.connection import TooLate
from worker import metrics
from worker.broker.bodies import BodyRoom, has_body
from worker.broker.deliveries import Delivery
from worker.broker.link import CONNECTION_ERRORS, Link, start_consuming, stop_consuming
from worker.broker.messages import Reply, ack, requeue, time_since_publishing_s
from worker.database.errors import Failure, meaning_of
from worker.database.pool import Database
from worker.limits import WorkerLimits
from worker.logs import describe
from worker.requests.pending_events import PendingEventsLookup
from worker.requests.queue import PendingRequest, RequestQueue
from worker.requests.reply_addresses import ReplyAddress, UnusableReplyTo, read_reply_address
from worker.requests.reply_sender import ReplySender
from worker.routes import AnswerContext, RequestRoute
from worker.settings import WorkerSettings
from worker.tracing import AnswerSpan, trace_context

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_NOT_ALLOWED: Final = "this user may not ask for this organisation"

_DATABASE_AWAY: Final = encode_error_reply(ErrorCode.UNAVAILABLE, "the database cannot be reached; try again")

_TOO_LATE: Final = encode_error_reply(ErrorCode.UNAVAILABLE, "the answer did not come in time")

_TOO_OLD: Final = encode_error_reply(
    ErrorCode.UNAVAILABLE,
    "the deadline has passed already",
    FieldError(field="timestamp", message="says that the request is older than its expiration; check your clock"),
)

_NO_ROOM: Final = encode_error_reply(
    ErrorCode.UNAVAILABLE, "too many large requests of this operation are being answered; try again"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A request and the body of its reply. Its arrival is by the event loop's clock, in seconds."""

    delivery: Delivery
    body: bytes
    arrived_at_s: float


class RequestServer:
    """Answers the requests of one operation."""

    def __init__(
        self,
        route: RequestRoute[Any, Any],
        consuming: Link,
        replies: ReplySender,
        database: Database,
        settings: WorkerSettings,
        limits: WorkerLimits,
        stopping: asyncio.Event,
        pending_events: PendingEventsLookup,
        *,
        priority: int = 0,
    ) -> None:
        self._route = route
        self._priority = priority
        self._consuming = consuming
        self._replies = replies
        self._database = database
        self._organisations = settings.organisations
        self._own_user = settings.user_id
        self._default_deadline_s = settings.request_deadline_s
        self._reply_queue_prefixes = settings.reply_queue_prefixes
        self._limits = limits
        self._stopping = stopping
        self._pending_events = pending_events
        self._queue = RequestQueue(limits.query_claims_max, large_max=max(1, route.queries_max // 2))
        self._room = BodyRoom(limits.request_bodies_bytes_max, BODY_BYTES_MAX, takes_oversized=False)
        self._timers: dict[PendingRequest, asyncio.TimerHandle] = {}
        """One for each request without an answer."""
        self._seconds = metrics.REQUEST_SECONDS.labels(route.operation.name)
        metrics.REQUESTS_IN_FLIGHT.labels(route.operation.name).set_function(lambda: len(self._timers))
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_ended = False
        self._log = log.bind(operation=route.operation.name)

    async def run(self) -> None:
        """Answer until the worker stops; first every request in hand is answered."""
        try:
            async with asyncio.TaskGroup() as queries:
                for _ in range(self._route.queries_max):
                    queries.create_task(self._serve())
                name = names.rpc_queue(self._route.operation.name)
                consumer_tag = await start_consuming(
                    self._consuming,
                    name,
                    self._route.held_max,
                    self._receive,
                    self._room,
                    priority=self._priority,
                )
                await self._stopping.wait()
                await stop_consuming(self._consuming, consumer_tag)
                if self._database.is_given_up:
                    await self._reply_to_pending([*self._timers], [_DATABASE_AWAY] * len(self._timers))
                self._queue.close()
            while self._tasks:
                await asyncio.gather(*self._tasks)
        finally:
            # RabbitMQ redelivers in the next session what has no answer here.
            self._has_ended = True
            for timer in self._timers.values():
                timer.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _receive(self, delivery: Delivery) -> None:
        """Accept a request that can be answered; drop one that cannot."""
        if self._has_ended:
            return
        arrived_at_s = asyncio.get_running_loop().time()
        try:
            address = read_reply_address(delivery.header.properties.reply_to, self._reply_queue_prefixes)
        except UnusableReplyTo as unusable:
            self._drop(delivery, str(unusable))
            return
        if self._replies.nodes.knows(address):
            self._accept(delivery, arrived_at_s)
        else:
            self._start(self._accept_if_found(delivery, arrived_at_s, address))

    async def _accept_if_found(self, delivery: Delivery, arrived_at_s: float, address: ReplyAddress) -> None:
        try:
            found = await self._replies.nodes.find(address)
        except CONNECTION_ERRORS:
            await requeue(self._consuming, delivery)
            return
        if found:
            self._accept(delivery, arrived_at_s)
        else:
            self._drop(delivery, "RabbitMQ does not know the node or the process in this direct reply-to address")

    def _drop(self, delivery: Delivery, reason: str) -> None:
        properties = delivery.header.properties
        self._replies.unusable_addresses.warn(
            asyncio.get_running_loop().time(),
            properties.reply_to,
            reason,
            operation=self._route.operation.name,
            correlation_id=properties.correlation_id,
        )
        self._start(ack(self._consuming, delivery))

    def _accept(self, delivery: Delivery, arrived_at_s: float) -> None:
        """Put a request into the queue, or refuse it."""
        expiration = delivery.header.properties.expiration
        deadline_s = int(expiration) / 1000 if expiration else self._default_deadline_s
        margin_s = min(deadline_s * self._limits.reply_margin_share, self._limits.reply_margin_max_s)
        queued_s = time_since_publishing_s(delivery, time.time())
        if queued_s >= deadline_s:
            metrics.REQUESTS_EXPIRED.labels(self._route.operation.name).inc()
            self._start(self._reply([Answer(delivery, _TOO_OLD, arrived_at_s)], arrived_at_s + margin_s))
            return
        given_up_at_s = arrived_at_s + deadline_s - queued_s
        if not has_body(delivery) and delivery.header.body_size <= BODY_BYTES_MAX:
            metrics.REQUESTS_SHED.labels(self._route.operation.name).inc()
            self._start(self._reply([Answer(delivery, _NO_ROOM, arrived_at_s)], given_up_at_s))
            return
        try:
            body = self._decode(delivery)
        except InvalidBody as invalid:
            refusal = encode_error_reply(ErrorCode.INVALID_REQUEST, "the request is not valid", *invalid.details)
            self._start(self._reply([Answer(delivery, refusal, arrived_at_s)], given_up_at_s))
            return
        if (not_allowed := self._refusal_of_organisation(delivery, body)) is not None:
            self._start(self._reply([Answer(delivery, not_allowed, arrived_at_s)], given_up_at_s))
            return
        claims = self._route.claims(body) if self._route.claims else self._limits.query_claims_max
        request = PendingRequest(delivery, body, claims, arrived_at_s, given_up_at_s - margin_s, given_up_at_s)
        self._timers[request] = asyncio.get_running_loop().call_at(request.expires_at_s, self._expire, request)
        self._queue.put(request)

    def _decode(self, delivery: Delivery) -> WireModel:
        """Raises InvalidBody."""
        name = self._route.operation.name
        # RabbitMQ 3.10 asks for permission for the routing key only, not for those in the headers CC and BCC.
        if delivery.exchange == names.RPC_EXCHANGE and delivery.routing_key != name:
            message = f"must be {name}; the headers CC and BCC cannot stand for it"
            raise InvalidBody(FieldError(field="routing_key", message=message))
        if not delivery.header.properties.correlation_id:
            raise InvalidBody(FieldError(field="correlation_id", message="is required"))
        check_body_size(delivery.header.body_size)
        request: WireModel = decode(self._route.operation.request, delivery.body)
        properties = delivery.header.properties
        request.with_idempotency_key(properties.message_id)
        if (context := trace_context(properties.headers)) is not None:
            request.with_trace_context(context)
        return request

    def _refusal_of_organisation(self, delivery: Delivery, request: WireModel) -> bytes | None:
        """The reply to a user who may not ask for this organisation. It depends on nothing that is stored."""
        if self._organisations is None:
            return None
        user_id = delivery.header.properties.user_id
        refusal = self._organisations.refusal(user_id, getattr(request, "org_id", None), self._own_user)
        if refusal is None:
            return None
        return encode_error_reply(ErrorCode.ORGANISATION_NOT_ALLOWED, _NOT_ALLOWED, refusal)

    def _expire(self, request: PendingRequest) -> None:
        """The caller is about to give up: it gets UNAVAILABLE while it still waits."""
        self._log_of(request.delivery).warning("request_timed_out")
        metrics.REQUESTS_EXPIRED.labels(self._route.operation.name).inc()
        self._queue.remove(request)  # RabbitMQ delivers another in its place, so it must not stay
        self._start(self._reply_to_pending([request], [_TOO_LATE]))

    async def _serve(self) -> None:
        """Take requests from the queue and answer them, one query after the other."""
        while requests := await self._queue.take():
            if pending := [request for request in requests if request in self._timers]:
                await self._answer(pending)
            self._queue.release(requests)

    async def _answer(self, requests: Sequence[PendingRequest]) -> None:
        """Answer requests with one query, unless the last of their callers gives up before it ends."""
        query = asyncio.create_task(self._query(requests))
        left_s = max(request.expires_at_s for request in requests) - asyncio.get_running_loop().time()
        # Not asyncio.timeout: it waits for the query's clean-up, which a database that hangs delays as well.
        try:
            done, _ = await asyncio.wait({query}, timeout=left_s)
        finally:
            query.cancel()
        if done:
            await self._reply_to_pending(requests, query.result())

    async def _query(self, requests: Sequence[PendingRequest]) -> list[bytes]:
        """The body of the reply to each request."""
        try:
            async with self._database.connection() as connection:
                context = AnswerContext(
                    until_s=max(request.expires_at_s for request in requests),
                    pending_events=self._pending_events.latest,
                )
                results = await self._route.answer(connection, [request.request for request in requests], context)
            return [self._encode(result) for result in results]
        except TooLate:
            return [_TOO_LATE] * len(requests)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the callers get an answer
            return await self._error_bodies(requests, error)

    def _encode(self, result: WireModel) -> bytes:
        body = encode_ok_reply(result)
        if len(body) <= REPLY_BYTES_MAX:
            return body
        refusal = result_too_large(self._route.operation)
        return encode_error_reply(refusal.code, refusal.message)

    async def _error_bodies(self, requests: Sequence[PendingRequest], error: Exception) -> list[bytes]:
        match meaning_of(error):
            case Failure.UNAVAILABLE:
                return [_DATABASE_AWAY] * len(requests)
            case _ if len(requests) > 1:  # one of them is to blame, and only its caller must hear of it
                return [body for request in requests for body in await self._query([request])]
            case Failure.INTERRUPTED:
                return [encode_error_reply(ErrorCode.UNAVAILABLE, "another transaction is in the way; try again")]
            case Failure.UNSTORABLE | Failure.BUG:
                if isinstance(error, RequestRefused):
                    return [encode_error_reply(error.code, error.message, *error.details)]
                self._log_of(requests[0].delivery).error("request_failed", **describe(error))
                return [encode_error_reply(ErrorCode.INTERNAL, "the service failed; it has been logged")]
            case failure:
                assert_never(failure)

    async def _reply_to_pending(self, requests: Sequence[PendingRequest], bodies: Sequence[bytes]) -> None:
        """Reply to those requests that have no answer yet."""
        answers: list[Answer] = []
        for request, body in zip(requests, bodies, strict=True):
            timer = self._timers.pop(request, None)
            if timer is not None:
                timer.cancel()
                answers.append(Answer(request.delivery, body, request.arrived_at_s))
        if answers:
            await self._reply(answers, max(request.given_up_at_s for request in requests))
            now_s = asyncio.get_running_loop().time()
            for request in requests:
                self._seconds.observe(now_s - request.arrived_at_s)

    async def _reply(self, answers: Sequence[Answer], given_up_at_s: float) -> None:
        """Ack, then reply, once replies can be sent.

        If that is not before the last caller gives up, only ack. If the worker stops before that, give the requests
        back: another worker can answer them.
        """
        deliveries = [answer.delivery for answer in answers]
        if await self._replies.ready(given_up_at_s):
            await ack(self._consuming, *deliveries)
            await self._send(answers)
        elif self._stopping.is_set():
            for delivery in deliveries:
                await requeue(self._consuming, delivery)
            self._log.warning("requests_given_back", requests=len(deliveries))
        else:
            await ack(self._consuming, *deliveries)
            self._log.warning("replies_lost", replies=len(deliveries))

    async def _send(self, answers: Sequence[Answer]) -> None:
        operation, now_s = self._route.operation.name, asyncio.get_running_loop().time()
        codes = [reply_code(answer.body) for answer in answers]
        spans = [
            AnswerSpan(operation, answer.delivery.header.properties, now_s - answer.arrived_at_s, code)
            for answer, code in zip(answers, codes, strict=True)
        ]
        await self._replies.send(
            [
                Reply(answer.delivery, answer.body, span.trace_context)
                for answer, span in zip(answers, spans, strict=True)
            ]
        )
        for span, code in zip(spans, codes, strict=True):
            span.end()
            metrics.REQUESTS.labels(operation, code).inc()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this while other requests are served."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _log_of(self, delivery: Delivery) -> structlog.typing.FilteringBoundLogger:
        return self._log.bind(correlation_id=delivery.header.properties.correlation_id)
