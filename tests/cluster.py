"""Three RabbitMQ servers on this machine that make one cluster."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from local.processes import free_ports, say
from local.rabbitmq import ClusterMember, LocalRabbitMQ, start_epmd
from local.rabbitmq_programs import command_prefix

NODES = ("first@localhost", "second@localhost", "third@localhost")


@contextmanager
def cluster() -> Iterator[list[LocalRabbitMQ]]:
    """A cluster whose nodes all run. Whoever breaks one need not mend it."""
    cookie = secrets.token_hex(16)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="export-runs-epmd-")))
        (port,) = free_ports(1)
        stack.callback(start_epmd(command_prefix(say), port, directory / "epmd.log", directory).kill)
        servers = [LocalRabbitMQ(member=ClusterMember(name, NODES, cookie, port)) for name in NODES]
        for server in servers:
            stack.callback(server.close)
        with ThreadPoolExecutor() as threads:
            list(threads.map(LocalRabbitMQ.start, servers))
        yield servers
