"""The connection of a command to RabbitMQ, and what its errors say to a person."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError

from cli.console import Exit, fail
from cli.terminal import Terminal, err
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
    settings: BrokerSettings, purpose: str, *, on_loss: Callable[[str], None] = _ignore
) -> AsyncIterator[Link]:
    """A connection with its channel; `purpose` is its name on the broker. Raises Unreachable or Misconfiguration.

    `on_loss` is called with a reason when the connection or the channel is gone.
    """
    async with AsyncExitStack() as stack:
        with broker_errors():
            link = await stack.enter_async_context(open_link(settings, purpose, on_loss))
        yield link


@contextmanager
def broker_errors() -> Iterator[None]:
    """Raise Unreachable or Misconfiguration in place of every error that means it."""
    try:
        yield
    except (*CONNECTION_ERRORS, SessionLost) as error:
        cause = error.__cause__ if isinstance(error, SessionLost) else error
        raise explanation(cause or error) from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        # Nobody cancelled this task: aiormq raises CancelledError when a heartbeat fails.
        raise Unreachable("the connection to RabbitMQ closed") from error


def explanation(error: BaseException) -> Unreachable | Misconfiguration:
    """What an error of the connection says to a person."""
    if sentence := misconfiguration(error):
        return Misconfiguration(AMQP_URL, sentence)
    match error:
        case ChannelNotFoundEntity():
            return Unreachable(f"has a worker ever run on this broker? {error}")
        case DeliveryError():
            return Unreachable("RabbitMQ has no room for the message, or no queue; has a worker ever run here?")
        case _:
            return Unreachable(f"RabbitMQ does not answer: {type(error).__name__}")


@contextmanager
def broker_errors_explained(to: Terminal = err) -> Iterator[None]:
    """End the command with one line and an exit code where RabbitMQ, or a worker behind it, is away or refuses the URL.

    For a command that uses nothing else; cli/errors.py explains more, and takes longer to import. The line goes to
    standard error, or `to` another output.
    """
    try:
        yield
    except Unreachable as unreachable:
        fail(Exit.UNREACHABLE, str(unreachable), to=to)
    except Misconfiguration as misconfigured:
        fail(Exit.USAGE, str(misconfigured), to=to)
