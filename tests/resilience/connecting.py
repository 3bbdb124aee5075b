"""How a worker and a command connect to RabbitMQ, and what the addresses of its name are."""

import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from cli.request_client import open_client
from worker.broker.link import open_link
from worker.settings import WorkerSettings

Addresses = Callable[..., list[tuple[Any, ...]]]

Connect = Callable[[WorkerSettings], AbstractAsyncContextManager[Any]]


def worker_connection(settings: WorkerSettings) -> AbstractAsyncContextManager[Any]:
    """A connection of a worker."""
    return open_link(settings, "a test", lambda reason: None)


def command_connection(settings: WorkerSettings) -> AbstractAsyncContextManager[Any]:
    """A connection of a command, which is one of the client."""
    return open_client(settings)


def addresses_of_a_name(name: str, *addresses: str) -> Addresses:
    """What the machine answers who asks for the addresses of a name."""
    ask = socket.getaddrinfo

    def answer(host: str, *others: Any, **options: Any) -> list[tuple[Any, ...]]:
        hosts = addresses if host == name else (host,)
        return [each for one in hosts for each in ask(one, *others, **options)]

    return answer
