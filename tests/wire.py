"""A client that knows only the contract: names, JSON, AMQP properties. It imports nothing of the product."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue

Json = dict[str, Any]

WAIT_S = 60
"""Nobody waits so long where all is well; the machine does other work too."""
POLL_S = 0.02


def now() -> str:
    """The time now, in the form of RFC 3339."""
    return datetime.now(UTC).isoformat()


def _event(**fields: Any) -> Json:
    """The fields that events of both types have, and these."""
    return {
        "eventId": str(uuid4()),
        "schemaVersion": 1,
        "occurredAt": now(),
        "runId": str(uuid4()),
        "orgId": "org-1",
        **fields,
    }


def run_created(**fields: Any) -> Json:
    """A valid run-created, with these fields in place of its own."""
    return _event(**{"triggeredBy": "alice", "format": "csv", **fields})


def run_finished(**fields: Any) -> Json:
    """A valid run-finished, with these fields in place of its own."""
    return _event(**{"status": "completed", "claimIds": ["c-1", "c-2"], **fields})


async def next_message(queue: AbstractQueue) -> AbstractIncomingMessage:
    """Wait until a queue has a message, and take it out."""
    async with asyncio.timeout(WAIT_S):
        while (message := await queue.get(fail=False, no_ack=True)) is None:
            await asyncio.sleep(POLL_S)
    return message


@contextmanager
def closed_while_opening() -> Iterator[None]:
    """Raise ConnectionError where aiormq raises a bare RuntimeError: the connection closed before a channel opened."""
    try:
        yield
    except RuntimeError as error:
        if type(error) is RuntimeError:
            raise ConnectionError("RabbitMQ has closed the connection") from error
        raise


class Wire:
    """Publishes events, sends requests, and reads queues."""

    def __init__(self, connection: AbstractConnection, channel: AbstractChannel, user_id: str | None = None) -> None:
        self.connection = connection
        self.channel = channel
        self.user_id = user_id
        self._replies: dict[str, asyncio.Future[AbstractIncomingMessage]] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, amqp_url: str, user_id: str | None = None) -> AsyncIterator["Wire"]:
        """Connect, and consume direct replies. Messages name the user, if one is given."""
        connection = await aio_pika.connect(amqp_url, timeout=WAIT_S)
        async with connection:
            with closed_while_opening():
                wire = cls(connection, await connection.channel(on_return_raises=True), user_id)
            direct = await wire.channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
            await direct.consume(wire._take, no_ack=True)
            yield wire

    async def _take(self, reply: AbstractIncomingMessage) -> None:
        future = self._replies.pop(reply.correlation_id or "")
        if not future.done():  # or whoever asked has given up
            future.set_result(reply)

    async def ready(self) -> None:
        """Wait until a worker answers."""
        async with asyncio.timeout(WAIT_S) as bound:
            while not bound.expired():
                try:
                    await self.require_exchange("export-runs.rpc")
                    await self.ask("check-claims", {"orgId": "nobody", "claimIds": ["none"]}, wait_s=2)
                    return
                except (aio_pika.exceptions.AMQPError, TimeoutError):
                    await asyncio.sleep(POLL_S)
            raise TimeoutError  # aio-pika may raise its own error in place of the cancellation

    async def require_exchange(self, name: str) -> None:
        """Raise an AMQPError if there is no such exchange. RabbitMQ closes the channel of whoever asks in vain."""
        with closed_while_opening():
            async with self.connection.channel() as channel:
                await channel.get_exchange(name)

    async def publish(
        self, event_type: str, body: Json | bytes, *, exchange: str = "export-runs.events", **properties: Any
    ) -> None:
        """Publish an event. Returns when the broker has confirmed it, for which it has WAIT_S."""
        message = aio_pika.Message(
            body if isinstance(body, bytes) else json.dumps(body).encode(),
            **{
                "content_type": "application/json",
                "delivery_mode": aio_pika.DeliveryMode.PERSISTENT,
                "type": event_type,
                "message_id": str(uuid4()),
                "user_id": self.user_id,
                **properties,
            },
        )
        target = await self.channel.get_exchange(exchange, ensure=False)
        await target.publish(message, event_type, timeout=WAIT_S)

    async def ask(self, operation: str, body: Json | bytes, *, wait_s: float = WAIT_S, **properties: Any) -> Json:
        """Send a request with direct reply-to, and return the whole reply. Raises TimeoutError after `wait_s`."""
        reply = await self.reply_to(operation, body, wait_s=wait_s, **properties)
        assert reply.content_type == "application/json"
        answer: Json = json.loads(reply.body)
        return answer

    async def reply_to(
        self, operation: str, body: Json | bytes, *, wait_s: float = WAIT_S, **properties: Any
    ) -> AbstractIncomingMessage:
        """The same, as the message that the reply came in."""
        correlation_id = str(uuid4())
        future = self._replies[correlation_id] = asyncio.get_running_loop().create_future()
        message = aio_pika.Message(
            body if isinstance(body, bytes) else json.dumps(body).encode(),
            **{
                "content_type": "application/json",
                "reply_to": "amq.rabbitmq.reply-to",
                "correlation_id": correlation_id,
                "user_id": self.user_id,
                **properties,
            },
        )
        target = await self.channel.get_exchange("export-runs.rpc", ensure=False)
        await target.publish(message, operation, timeout=WAIT_S)
        return await asyncio.wait_for(future, wait_s)

    async def result(self, operation: str, **body: Any) -> Json:
        """Send a request and return its result. The reply must not be an error."""
        reply = await self.ask(operation, body)
        assert reply["ok"] is True, reply
        result: Json = reply["result"]
        return result

    async def check(self, org_id: str, *claim_ids: str) -> Json:
        """The three lists of a check, without what it says of its time."""
        checked = await self.result("check-claims", orgId=org_id, claimIds=claim_ids)
        return {name: checked[name] for name in ("exported", "reserved", "unexported")}

    async def error(self, operation: str, body: Json | bytes, **properties: Any) -> Json:
        """Send a request and return its error. The reply must be a well-formed error."""
        reply = await self.ask(operation, body, **properties)
        assert reply["ok"] is False, reply
        error: Json = reply["error"]
        assert set(error) == {"code", "message", "retryable", "details"}
        assert error["retryable"] is (error["code"] == "UNAVAILABLE")
        return error

    async def run(self, run_id: str) -> Json | None:
        """A run, or None if the service does not know it."""
        reply = await self.ask("get-export-run-by-id", {"runId": run_id})
        return reply["result"] if reply["ok"] else None

    async def until_run(self, run_id: str, **facts: Any) -> Json:
        """Wait until the service knows a run, and its fields have these values."""
        async with asyncio.timeout(WAIT_S):
            while True:
                run = await self.run(run_id)
                if run is not None and all(run[name] == value for name, value in facts.items()):
                    return run
                await asyncio.sleep(POLL_S)

    async def take_from(self, queue: str) -> AbstractIncomingMessage:
        """Wait until a queue has a message, and take it out."""
        return await next_message(await self._queue(queue))

    async def count_in(self, queue: str) -> int:
        """How many messages of a queue are ready. Messages that a consumer holds are not counted."""
        count = (await self._queue(queue, passive=True)).declaration_result.message_count
        assert count is not None
        return count

    async def until_count(self, queue: str, count: int) -> None:
        """Wait until a queue has this many messages that are ready."""
        async with asyncio.timeout(WAIT_S):
            while await self.count_in(queue) != count:
                await asyncio.sleep(POLL_S)

    async def _queue(self, name: str, *, passive: bool = False) -> AbstractQueue:
        return await self.channel.get_queue(name, ensure=passive)
