"""Three RabbitMQ servers on this machine that make one cluster."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from local.network import Network
from local.processes import free_ports, say, wait_until
from local.rabbitmq import ClusterMember, LocalRabbitMQ, start_epmd
from local.rabbitmq_programs import command_prefix

HOSTS = ("first", "second", "third")
"""Where each node has a host of its own."""

RESUME_S = 20.0
"""A node that has paused serves again within a second, and later on a machine that does other work too."""

NODES = ("first@localhost", "second@localhost", "third@localhost")


@contextmanager
def cluster(network: Network | None = None) -> Iterator[list[LocalRabbitMQ]]:
    """A cluster whose nodes all run, on a network a node on each host. Whoever breaks one need not mend it."""
    cookie = secrets.token_hex(16)
    with ExitStack() as stack:
        (port,) = free_ports(1)
        if network is None:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="export-runs-epmd-")))
            stack.callback(start_epmd(command_prefix(say), port, directory / "epmd.log", directory).kill)
        names = NODES if network is None else tuple(f"rabbit@{host.name}" for host in network.hosts)
        servers = [LocalRabbitMQ(member=ClusterMember(name, names, cookie, port, network)) for name in names]
        for server in servers:
            stack.callback(server.close)
        with ThreadPoolExecutor() as threads:
            list(threads.map(LocalRabbitMQ.start, servers))
        yield servers


def resume(node: LocalRabbitMQ) -> None:
    """Wait until a node serves that may have paused. Restart one that does not, as an operator has to.

    Erlang 25 may wait without end in `global:sync()` when a node returns that did not reach one of the others.
    """
    if not wait_until(node.answers, RESUME_S):
        node.kill()
        node.start()
