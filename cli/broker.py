"""The connection of a command to RabbitMQ, and what its errors say to a person."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError

from worker.broker.link import CONNECTION_ERRORS, Link, SessionLost, open_link
from worker.broker.misconfiguration import misconfiguration
from worker.retries import is_being_cancelled
from worker.settings import AMQP_URL, BrokerSettings, Misconfiguration


class Unreachable(Exception):
    """The broker, or a worker behind it, did not answer."""


def _ignore(reason: str) -> None:
    """Each call on a lost connection raises by itself."""


@asynccontextmanager
async def open_broker(
    settings: BrokerSettings, purpose: str, *, confirms: bool, on_loss: Callable[[str], None] = _ignore
) -> AsyncIterator[Link]:
    """A connection with its channel; `purpose` is its name on the broker. Raises Unreachable or Misconfiguration.

    `on_loss` is called with a reason when the connection or the channel is gone.
    """
    async with AsyncExitStack() as stack:
        with broker_errors():
            link = await stack.enter_async_context(open_link(settings, purpose, on_loss, confirms=confirms))
        yield link


@contextmanager
def broker_errors() -> Iterator[None]:
    """Raise Unreachable or Misconfiguration in place of every error that means it."""
    try:
        yield
    except (*CONNECTION_ERRORS, SessionLost) as error:
        raise _explanation(error) from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        # Nobody cancelled this task: aiormq raises CancelledError when a heartbeat fails.
        raise Unreachable("the connection to RabbitMQ closed") from error


def _explanation(error: Exception) -> Unreachable | Misconfiguration:
    if sentence := misconfiguration(error):
        return Misconfiguration(AMQP_URL, sentence)
    cause = error.__cause__ if isinstance(error, SessionLost) else error
    match cause:
        case ChannelNotFoundEntity():
            return Unreachable(f"has a worker ever run on this broker? {cause}")
        case DeliveryError():
            return Unreachable("RabbitMQ has no room for the message, or no queue; has a worker ever run here?")
        case _:
            return Unreachable(f"RabbitMQ does not answer: {type(cause).__name__}")
