"""The environment variables of a peer, and the names it shares with the benchmarks. Needs the standard library only."""

import os
from typing import Final

AMQP_URL: Final = "EXPORT_RUNS_AMQP_URL"
DATABASE_URL: Final = "EXPORT_RUNS_DATABASE_URL"
PREFETCH: Final = "PEER_PREFETCH"

EVENTS_QUEUE: Final = "peer.events"
CLAIMS_QUEUE: Final = "peer.claims"
ECHO_QUEUE: Final = "peer.echo"

LIBRABBITMQ: Final = "librabbitmq.so.4"
"""RabbitMQ's client library for C. It is no variable: the name is the same in each distribution of Linux."""

NAMEKO_SERVICE: Final = "claims"
NAMEKO_EXCHANGE: Final = "nameko-rpc"


def amqp_url() -> str:
    """The URL of the broker."""
    return os.environ[AMQP_URL]


def database_url() -> str:
    """The URL of the database."""
    return os.environ[DATABASE_URL]


def prefetch() -> int:
    """How many messages the peer may hold unacknowledged."""
    return int(os.environ[PREFETCH])
