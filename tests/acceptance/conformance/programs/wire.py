"""What the programs that make mistakes have in common: one connection, requests and events, made by hand."""

import asyncio
import json
import os
from contextlib import suppress
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

Json = dict[str, Any]

ANSWER_TIMEOUT_S = 1.5
REPLY_TO = "amq.rabbitmq.reply-to"


class Wire:
    """A connection to RabbitMQ that makes one mistake, or none."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake
        self._replies: dict[str | None, asyncio.Future[Json]] = {}
        self._message_id = str(uuid4())
        self._requests: AbstractChannel | None = None
        self._events: AbstractChannel | None = None

    async def connect(self) -> None:
        """Connect, also once more after a loss."""
        connection = await aio_pika.connect(os.environ["EXPORT_RUNS_AMQP_URL"])
        self._requests = await connection.channel()
        self._events = await connection.channel(publisher_confirms=self.mistake != "no-confirms")
        replies = await self._requests.get_queue(REPLY_TO, ensure=False)
        await replies.consume(self._receive, no_ack=True)

    async def ask(self, operation: str, **body: Any) -> Json | None:
        """The reply to a request; None if there is none in time, or the connection is lost."""
        assert self._requests is not None
        correlation_id = None if self.mistake == "no-correlation-id" else str(uuid4())
        reply = self._replies[correlation_id] = asyncio.get_running_loop().create_future()
        message = aio_pika.Message(
            json.dumps({**body, **({"orgId": " "} if self.mistake == "invalid-request" else {})}).encode(),
            correlation_id=correlation_id,
            message_id=str(uuid4()),
            reply_to=None if self.mistake == "no-reply-to" else REPLY_TO,
            expiration=None if self.mistake == "no-expiration" else ANSWER_TIMEOUT_S,
        )
        exchange = await self._requests.get_exchange("export-runs.rpc", ensure=False)
        await exchange.publish(message, operation)
        try:
            return await asyncio.wait_for(reply, ANSWER_TIMEOUT_S)
        except TimeoutError:
            return None

    async def publish(self, event_type: str, **body: Any) -> None:
        """Publish an event, and wait for the confirm."""
        assert self._events is not None
        message = aio_pika.Message(
            json.dumps({"schemaVersion": 1, **body}).encode(),
            delivery_mode=1 if self.mistake == "transient" else 2,
            message_id=self._message_id if self.mistake == "same-message-id" else str(uuid4()),
            type=None if self.mistake == "no-type" else event_type,
        )
        exchange = await self._events.get_exchange("export-runs.events", ensure=False)
        await exchange.publish(message, event_type, mandatory=self.mistake != "not-mandatory")

    async def break_a_channel(self) -> None:
        """Have RabbitMQ close a channel: there is no such queue."""
        assert self._events is not None
        with suppress(aio_pika.exceptions.AMQPError):
            await self._events.declare_queue("no-such-queue", passive=True)

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        reply = self._replies.get(message.correlation_id)
        if self.mistake == "any-reply":
            reply = next(iter(self._replies.values()))
        if reply is not None and not reply.done():
            reply.set_result(json.loads(message.body))
