"""A client of the contract, for the command line: requests over direct reply-to, events with confirms.

It knows no more of the worker than any other client does.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError

from schema import names
from schema.fields import WireModel
from schema.operations import Operation
from schema.replies import ErrorBody, ErrorReply, OkReply
from worker.amqp import CONNECTION_ERRORS, Link, SessionLost, open_link, publish
from worker.settings import BrokerSettings

REQUEST_TIMEOUT_S: Final = 30.0
PUBLISH_TIMEOUT_S: Final = 30.0

Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)


class RequestFailed(Exception):
    """The service answered that it cannot; `error` says why."""

    def __init__(self, error: ErrorBody) -> None:
        super().__init__(error.message)
        self.error = error


class Unreachable(Exception):
    """The broker, or a worker behind it, did not answer."""


class Client:
    """Asks and publishes over one connection. Made by open_client."""

    def __init__(self, link: Link, lost: asyncio.Future[str]) -> None:
        self._link = link
        self._lost = lost
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def listen(self) -> None:
        """Start to hear replies; before the first call."""
        replies = await self._link.channel.get_queue(names.DIRECT_REPLY_TO, ensure=False)
        await replies.consume(self._take, no_ack=True)

    async def call(
        self, operation: Operation[Request, Result], request: Request, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Result:
        """Ask, and wait for the answer. Raises RequestFailed or Unreachable."""
        correlation_id = str(uuid4())
        reply = self._waiting[correlation_id] = asyncio.get_running_loop().create_future()
        message = aio_pika.Message(
            request.model_dump_json(exclude_none=True).encode(),
            content_type=names.CONTENT_TYPE,
            reply_to=names.DIRECT_REPLY_TO,
            correlation_id=correlation_id,
            message_id=correlation_id,
            expiration=timeout_s,
        )
        try:
            async with asyncio.timeout(timeout_s):
                await self._publish(names.RPC_EXCHANGE, operation.name, message)
                await asyncio.wait({reply, self._lost}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise Unreachable(f"no answer within {timeout_s:g} s; is a worker running?") from None
        finally:
            del self._waiting[correlation_id]
        if not reply.done():
            raise Unreachable(await self._lost)
        return _result(operation.result, reply.result())

    async def publish_event(self, event_type: str, body: bytes) -> None:
        """Publish an event; returns once the broker has confirmed it. Raises Unreachable."""
        message = aio_pika.Message(
            body,
            content_type=names.CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            type=event_type,
            message_id=str(uuid4()),
        )
        await self._publish(names.EVENTS_EXCHANGE, event_type, message)

    async def _publish(self, exchange: str, routing_key: str, message: aio_pika.Message) -> None:
        try:
            confirmed = await publish(self._link, exchange, routing_key, message, PUBLISH_TIMEOUT_S)
        except SessionLost as error:
            raise Unreachable(
                f"the broker did not take the message for {exchange}; has a worker ever run here?"
            ) from error
        if not confirmed:
            raise Unreachable(f"the broker has no room for {routing_key}, or is short of memory")

    async def _take(self, reply: AbstractIncomingMessage) -> None:
        waiting = self._waiting.get(reply.correlation_id or "")
        if waiting is not None and not waiting.done():
            waiting.set_result(reply.body)


def _result(result: type[Result], body: bytes) -> Result:
    try:
        if body.startswith(b'{"ok":true'):
            return OkReply[result].model_validate_json(body).result  # type: ignore[valid-type]
        raise RequestFailed(ErrorReply.model_validate_json(body).error)
    except ValidationError as error:
        raise Unreachable(f"the answer is not one of the contract: {error}") from error


@asynccontextmanager
async def open_client(settings: BrokerSettings) -> AsyncIterator[Client]:
    """Connect. Raises Unreachable."""
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def note(reason: str) -> None:
        if not lost.done():
            lost.set_result(reason)

    try:
        async with open_link(settings, "a command", note, confirms=True) as link:
            client = Client(link, lost)
            await client.listen()
            yield client
    except (*CONNECTION_ERRORS, SessionLost) as error:
        raise Unreachable(f"the broker cannot be reached: {type(error).__name__}") from error
