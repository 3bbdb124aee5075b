"""A client of the contract for the command: requests over direct reply-to, events with confirms.

It uses nothing of the worker that another client could not use.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, TypeVar, assert_never
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError

from cli.broker import Unreachable, broker_errors, open_broker
from schema import names
from schema.fields import WireModel
from schema.operations import Operation
from schema.replies import ErrorBody, ErrorReply, OkReply, decode_reply
from worker.broker.link import Link
from worker.broker.messages import publish
from worker.settings import BrokerSettings

REQUEST_TIMEOUT_S: Final = 30.0
PUBLISH_TIMEOUT_S: Final = 30.0

Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)


class RequestFailed(Exception):
    """The service answered with an error; `error` says why."""

    def __init__(self, error: ErrorBody) -> None:
        super().__init__(error.message)
        self.error = error


class Client:
    """Sends requests and publishes events over one connection. Made by open_client."""

    def __init__(self, link: Link, lost: asyncio.Future[str], user_id: str | None) -> None:
        self._link = link
        self._user_id = user_id
        self._lost = lost
        self._replies: dict[str, asyncio.Future[bytes]] = {}

    async def listen(self) -> None:
        """Start to receive replies. Needed before the first call."""
        with broker_errors():
            replies = await self._link.channel.get_queue(names.DIRECT_REPLY_TO, ensure=False)
            await replies.consume(self._receive, no_ack=True)

    async def call(
        self, operation: Operation[Request, Result], request: Request, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Result:
        """Send a request, and wait for its reply. Raises RequestFailed, Unreachable or Misconfiguration."""
        correlation_id = str(uuid4())
        reply = self._replies[correlation_id] = asyncio.get_running_loop().create_future()
        message = aio_pika.Message(
            request.model_dump_json(exclude_none=True).encode(),
            content_type=names.CONTENT_TYPE,
            reply_to=names.DIRECT_REPLY_TO,
            correlation_id=correlation_id,
            message_id=correlation_id,
            expiration=timeout_s,
            user_id=self._user_id,
        )
        try:
            async with asyncio.timeout(timeout_s):
                await self._publish(names.RPC_EXCHANGE, operation.name, message)
                await asyncio.wait({reply, self._lost}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise Unreachable(f"no answer within {timeout_s:g} s; is a worker running?") from None
        finally:
            del self._replies[correlation_id]
        if not reply.done():
            raise Unreachable(await self._lost)
        return _result(operation.result, reply.result())

    async def publish_event(self, event_type: str, body: bytes) -> None:
        """Publish an event; returns once RabbitMQ has confirmed it. Raises Unreachable or Misconfiguration."""
        message = aio_pika.Message(
            body,
            content_type=names.CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            type=event_type,
            message_id=str(uuid4()),
            user_id=self._user_id,
            timestamp=datetime.now(UTC),  # the age of the message, should it become unroutable
        )
        await self._publish(names.EVENTS_EXCHANGE, event_type, message)

    async def _publish(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        with broker_errors():
            confirmed = await publish(self._link, exchange, routing_key, message, PUBLISH_TIMEOUT_S)
        if not confirmed:
            raise Unreachable(f"RabbitMQ has no room for {routing_key}, or is short of memory")

    async def _receive(self, reply: AbstractIncomingMessage) -> None:
        future = self._replies.get(reply.correlation_id or "")
        if future is not None and not future.done():
            future.set_result(reply.body)


def _result(result: type[Result], body: bytes) -> Result:
    try:
        reply = decode_reply(result, body)
    except ValidationError as error:
        raise Unreachable(f"the answer is not one of the contract: {error}") from error
    match reply:
        case OkReply():
            return reply.result
        case ErrorReply():
            raise RequestFailed(reply.error)
        case _:
            assert_never(reply)


@asynccontextmanager
async def open_client(settings: BrokerSettings) -> AsyncIterator[Client]:
    """Connect, and receive replies. Raises Unreachable or Misconfiguration."""
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note_loss(reason: str) -> None:
        if not lost.done():
            lost.set_result(reason)

    async with open_broker(settings, "a command", confirms=True, on_loss=note_loss) as link:
        client = Client(link, lost, settings.user_id)
        await client.listen()
        yield client
