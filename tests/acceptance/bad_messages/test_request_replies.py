"""To which queues the worker sends replies, and to which it sends none."""

import asyncio

import pytest
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import DeliveryError

from sql.connection import Connection
from tests.acceptance.bad_messages.requests import (
    VALID,
    declare_reply_queue,
    every_operation,
    is_answered,
    next_reply,
    send,
    stored_rows,
    until_answered,
    until_refused,
)
from tests.wire import POLL_S, WAIT_S, Wire

OUR_QUEUES = (
    *(f"export-runs.{name}" for name in ("run-created", "run-finished")),
    *(f"export-runs.{name}.dead" for name in ("run-created", "run-finished")),
    "export-runs.unroutable",
    "export-runs.alerts",
    *(f"export-runs.rpc.{operation}" for operation in VALID),
)


@pytest.mark.parametrize("name", ["", "reply.x"], ids=["server-named", "allowed prefix"])
async def test_every_operation_replies_to_ordinary_queues(wire: Wire, name: str) -> None:
    replies = await declare_reply_queue(wire, name)
    assert name or replies.name.startswith("amq.gen-")
    for operation, body in VALID.items():
        await send(wire, operation, body, reply_to=replies.name, correlation_id=operation)
        correlation_id, reply = await next_reply(replies)
        assert correlation_id == operation
        assert is_answered(reply), reply


@every_operation
async def test_no_correlation_id(wire: Wire, connection: Connection, operation: str) -> None:
    replies = await declare_reply_queue(wire, "reply.x")
    for correlation_id in (None, ""):
        await send(wire, operation, VALID[operation], reply_to=replies.name, correlation_id=correlation_id)
        _, reply = await next_reply(replies)
        assert reply["error"]["code"] == "INVALID_REQUEST"
        assert [detail["field"] for detail in reply["error"]["details"]] == ["correlation_id"]
    assert await stored_rows(connection) == [[], [], []]


async def test_no_reply_to(wire: Wire, connection: Connection) -> None:
    """Nobody would get the reply: the request is dropped, and nothing is stored."""
    for operation, body in VALID.items():
        for each in (body, b"not JSON", b""):
            await send(wire, operation, each, correlation_id="mine")
            await send(wire, operation, each, reply_to="", correlation_id="mine")
            await send(wire, operation, each)
    for operation in VALID:
        await until_refused(wire, operation)
    assert await stored_rows(connection) == [[], [], []]


@pytest.mark.parametrize("name", ["reply.gone", "amq.gen-gone", ""], ids=["allowed", "server-named", "was there"])
async def test_reply_queue_that_is_gone(wire: Wire, name: str) -> None:
    if not name:
        queue = await declare_reply_queue(wire)
        name = queue.name
        await queue.delete()
    for operation, body in VALID.items():
        for _ in range(5):
            await send(wire, operation, body, reply_to=name, correlation_id="mine")
        await until_answered(wire, operation)


@pytest.mark.parametrize(
    "reply_to",
    [
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.forged",
        "amq.rabbitmq.reply-to.a.b",
        "amq.rabbitmq.reply-to.!!!!.b",
        "amq.rabbitmq.reply-to.g2EF.b",
        "amq.rabbitmq.reply-to.g1hkAA5yYWJiaXRAbG9jYWxob3N0.key",
        "amq.rabbitmq.reply-to." + "x" * 230,
        "reply." + "x" * 249,
        "reply.\N{GRINNING FACE}\n\0",
        "/exchange/x",
        " ",
    ],
    ids=[
        "empty token",
        "forged token",
        "two letters",
        "not base64",
        "a number",
        "half a token",
        "long token",
        "long",
        "odd",
        "path",
        "blank",
    ],
)
async def test_reply_to_of_nobody(wire: Wire, reply_to: str) -> None:
    """Some of these addresses make RabbitMQ close the connection that publishes to them."""
    for _ in range(5):
        await send(wire, "check-claims", VALID["check-claims"], reply_to=reply_to, correlation_id="mine")
    await until_answered(wire, "check-claims")


async def test_replies_never_go_into_our_own_queues(wire: Wire, connection: Connection) -> None:
    """A consumer with a higher priority than the worker would get a reply that went there."""
    seen: list[tuple[str, str | None]] = []
    for operation, others in (
        ("find-runs-by-claim-id", [queue for queue in OUR_QUEUES if "find-runs" not in queue]),
        ("check-claims", ["export-runs.rpc.find-runs-by-claim-id"]),
    ):
        consumers = []
        for name in others:
            queue = await wire.channel.get_queue(name, ensure=False)

            async def take(message: AbstractIncomingMessage, name: str = name) -> None:
                seen.append((name, message.correlation_id))

            consumers.append((queue, await queue.consume(take, no_ack=True, arguments={"x-priority": 10})))
        for name in others:
            for body in (VALID[operation], b"not JSON"):
                await send(wire, operation, body, reply_to=name, correlation_id="forged")
        await until_answered(wire, operation)
        # This message proves that the consumers get what is in the queues.
        await send(wire, others[-1].removeprefix("export-runs.rpc."), b"", correlation_id="seen")
        async with asyncio.timeout(WAIT_S):
            while not seen:
                await asyncio.sleep(POLL_S)
        for queue, tag in consumers:
            await queue.cancel(tag)
        assert seen == [(others[-1], "seen")]
        seen.clear()
    assert await stored_rows(connection) == [[], [], []]


@every_operation
async def test_replies_never_go_into_queues_of_others(wire: Wire, connection: Connection, operation: str) -> None:
    """If no reply may be sent, the request is not carried out."""
    names = (
        "payments.in",
        "reply",
        "replyx",
        "Reply.x",
        "x.reply.",
        "amq.genx",
        "amq.gen",
        "export-runs",
        " reply.x",
    )
    queues = [await declare_reply_queue(wire, name) for name in names if not name.startswith("amq.")]
    for name in names:
        for body in (VALID[operation], b"not JSON"):
            await send(wire, operation, body, reply_to=name, correlation_id="mine")
    for exchange in ("export-runs.events", "export-runs.dead-letter", "export-runs.rpc"):
        await send(wire, operation, VALID[operation], reply_to=exchange, correlation_id="mine")
    await until_refused(wire, operation)
    assert {queue.name: await wire.count_in(queue.name) for queue in queues if await wire.count_in(queue.name)} == {}
    assert await stored_rows(connection) == [[], [], []]


@pytest.mark.parametrize("key", ["check-claim", "purge-export-run", "check-claims.x", "CHECK-CLAIMS", "#", ""])
async def test_unknown_operation(wire: Wire, key: str) -> None:
    """RabbitMQ returns a mandatory request to its publisher."""
    with pytest.raises(DeliveryError):
        await send(wire, key, VALID["check-claims"], reply_to="reply.x", correlation_id="mine")
