"""A command as a client of the service: it asks and publishes by the client library, on a link that is opened once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final, TypeVar

from cli.broker import Unreachable, explanation
from export_runs_client.calls import answer, silence
from export_runs_client.errors import NoAnswer
from export_runs_client.links import CONNECTION_ERRORS, Link, open_link
from export_runs_client.schema.fields import WireModel
from export_runs_client.schema.operations import Operation
from worker.settings import BrokerSettings

REQUEST_TIMEOUT_S: Final = 30.0
PUBLISH_TIMEOUT_S: Final = 30.0

Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)


@asynccontextmanager
async def open_client(settings: BrokerSettings) -> AsyncIterator[Link]:
    """Connect to the first of the URLs at which this is possible. Raises Unreachable or Misconfiguration.

    The connection is not made anew: whoever runs a command hears of a loss, and repeats the command.
    """
    async with AsyncExitStack() as stack:
        with _client_errors():
            *others, last = settings.amqp_urls
            timeout_s = settings.connect_timeout_s / (len(others) + 1)

            async def opened(url: str) -> Link:
                link = open_link(
                    url,
                    "export-runs a command",
                    settings.user_id,
                    connect_timeout_s=timeout_s,
                    heartbeat_s=settings.heartbeat_s,
                )
                return await stack.enter_async_context(link)

            for url in others:
                try:
                    link = await opened(url)
                    break
                except NoAnswer:
                    continue
            else:
                link = await opened(last)
        yield link


async def ask(link: Link, operation: Operation[Request, Result], request: Request) -> Result:
    """Send a request, and wait for its result. Raises RequestFailed, Unreachable or Misconfiguration."""
    body = request.model_dump_json(exclude_none=True).encode()
    confirmed = asyncio.Event()
    try:
        with _client_errors():
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await answer(link, operation, body, REQUEST_TIMEOUT_S, confirmed)
    except TimeoutError:
        raise Unreachable(f"no answer within {REQUEST_TIMEOUT_S:g} s: {silence(confirmed)}") from None


async def publish_event(link: Link, event_type: str, org_id: str, body: bytes) -> None:
    """Publish an event; returns once RabbitMQ has confirmed it. Raises Unreachable or Misconfiguration."""
    try:
        with _client_errors():
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await link.publish_event(event_type, org_id, body)
    except TimeoutError:
        raise Unreachable(f"RabbitMQ has no room for {event_type}, or is short of memory") from None


@contextmanager
def _client_errors() -> Iterator[None]:
    """Raise Unreachable or Misconfiguration where nobody has answered."""
    try:
        yield
    except NoAnswer as error:
        cause = error.__cause__
        raise (explanation(cause) if isinstance(cause, CONNECTION_ERRORS) else Unreachable(str(error))) from error
