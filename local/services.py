"""RabbitMQ and PostgreSQL for development, the demo and the tests, wherever this machine has them.

For each of the two this takes the first of: the server whose URL is in the environment; a container, if a Docker
engine answers; a server that this machine's own programs run. A server that is started here ends with the process
that started it, whatever ends that process, and leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from local.processes import ServiceError, say
from local.rabbitmq import LocalRabbitMQ

__all__ = ["LocalPostgreSQL", "LocalRabbitMQ", "ServiceError", "Services", "services"]

AMQP_URL = "EXPORT_RUNS_AMQP_URL"
DATABASE_URL = "EXPORT_RUNS_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class Services:
    """The URLs of the two services, with users and passwords."""

    amqp_url: str
    database_url: str

    def environment(self) -> dict[str, str]:
        """The environment variables with which the product uses these services."""
        return {AMQP_URL: self.amqp_url, DATABASE_URL: self.database_url}


class _Server(Protocol):
    """What a local server and a container have in common."""

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def close(self) -> None: ...


@contextmanager
def services(
    say: Callable[[str], None] = say, *, postgresql_settings: Mapping[str, str] = NOT_DURABLE
) -> Iterator[Services]:
    """Start both services at the same time, yield their URLs, and end what was started.

    Steps that take long are announced through `say`. A PostgreSQL that is started here gets these settings; by default
    it does not wait for the disk.

    Raises ServiceError if one of them cannot be started. After any exception, KeyboardInterrupt included, nothing
    that was started here still runs.
    """
    rabbitmq = None if os.environ.get(AMQP_URL) else _rabbitmq(say)
    postgresql = None if os.environ.get(DATABASE_URL) else _postgresql(say, postgresql_settings)
    with ExitStack() as stack:
        servers = [server for server in (rabbitmq, postgresql) if server]
        for server in servers:
            stack.callback(server.close)
        _start(servers)
        yield Services(
            amqp_url=rabbitmq.url if rabbitmq else os.environ[AMQP_URL],
            database_url=postgresql.url if postgresql else os.environ[DATABASE_URL],
        )


def _rabbitmq(say: Callable[[str], None]) -> _Server:
    from local import containers  # slow to import, and not needed where both URLs are given

    return containers.rabbitmq() if containers.can_run(containers.RABBITMQ_IMAGE, say) else LocalRabbitMQ(say)


def _postgresql(say: Callable[[str], None], settings: Mapping[str, str]) -> _Server:
    from local import containers

    if containers.can_run(containers.POSTGRESQL_IMAGE, say):
        return containers.postgresql(settings)
    return LocalPostgreSQL(settings)


def _start(servers: Sequence[_Server]) -> None:
    """Start all at the same time. If one fails, or on an interrupt, close all; this also ends the other starts."""
    with ThreadPoolExecutor() as pool:
        starts = [pool.submit(server.start) for server in servers]
        try:
            for start in starts:
                start.result()
        except BaseException:
            for server in servers:
                server.close()
            raise
