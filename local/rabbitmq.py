"""A RabbitMQ server for development, from the Debian package `rabbitmq-server`, which is installed if it is missing.

It has the version of this machine, or the one that the environment chooses.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from local.network import Host, Network
from local.processes import GuardedProcess, ServiceError, answers, free_ports, say, tail, wait_until
from local.rabbitmq_programs import FOLDER, command_prefix
from local.server import LocalServer

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"  # a broker that has started sends a method frame; any other answer is a refusal
_EPMD_TIMEOUT_S = 10.0

_CONFIGURATION = """
listeners.tcp.local = {address}:{port}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.4
# The default is half a gigabyte: a test does not need so much memory, and after a crash all of it is read again.
raft.wal_max_size_bytes = 67108864
"""

_TLS_CONFIGURATION = """
listeners.ssl.local = 127.0.0.1:{port}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/server.pem
ssl_options.keyfile = {folder}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""

_CLUSTER_CONFIGURATION = """
cluster_formation.peer_discovery_backend = classic_config
cluster_partition_handling = pause_minority
"""

# The default user may come from other addresses than this host's. A host that fell silent counts as lost after 5 s.
_NETWORK_CONFIGURATION = """
loopback_users.guest = false
net_ticktime = 4
"""

# Two schedulers are enough. Erlang loads hundreds of small files at its start, and hands each to another thread.
# Threads that wait busily for a moment before they sleep (RabbitMQ turns that off) halve the time of the start.
_ERLANG_ARGUMENTS = "+S 2:2 +sbwt short +sbwtdio long"
_ON_LOOPBACK_ONLY = " -kernel inet_dist_use_interface {127,0,0,1}"


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """What makes a server one node of a cluster on this machine. All nodes are started at the same time."""

    name: str
    """The node's own name, one of `names`."""

    names: tuple[str, ...]
    """The names of all nodes, such as `first@localhost`."""

    cookie: str
    """The secret that the nodes share."""

    epmd_port: int
    """Where the port mapper (epmd) of all nodes listens. Somebody else starts and ends it. On a network each host has
    one of its own there.
    """

    network: Network | None = None
    """Where the nodes have hosts of their own, each with the name that its node has after the `@`."""

    @property
    def host(self) -> Host | None:
        """The host of this node."""
        if self.network is None:
            return None
        return next(host for host in self.network.hosts if host.name == self.name.partition("@")[2])


class LocalRabbitMQ(LocalServer):
    """RabbitMQ on 127.0.0.1, user guest, no plugins. It has a port mapper (epmd) of its own, which ends with it.

    If the package is not installed, the first `start` installs it, and says so through `say`.

    With a folder `tls`, which has `ca.pem`, `server.pem` and `server.key`, it also listens on `tls_port`, for clients
    with a certificate of that authority.
    """

    def __init__(
        self, say: Callable[[str], None] = say, member: ClusterMember | None = None, tls: Path | None = None
    ) -> None:
        super().__init__("RabbitMQ", signal.SIGTERM, PROTOCOL_HEADER, METHOD_FRAME)
        self._say = say
        self._member = member
        self._tls = tls
        self._distribution_port, self._epmd_port, self.tls_port = free_ports(3)
        self._host = None
        if member is not None:
            self._epmd_port = member.epmd_port
            self._host = member.host
        if self._host is not None:
            self.address = self._host.address
        self._epmd: GuardedProcess | None = None
        self._command_prefix: list[str] = []

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.address}:{self.port}/"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server and its tools. Nothing is inherited: a RABBITMQ_ variable of the developer must
        not change this server.
        """
        return {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": str(self.directory),  # for the Erlang cookie
            **_epmd_environment(self.address, self._epmd_port),
            "RABBITMQ_NODENAME": self._member.name if self._member else "export-runs@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_LOGS": "-",  # to its output, which is our log file
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG_ARGUMENTS + (_ON_LOOPBACK_ONLY if not self._host else ""),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, instead of waiting for it
            **({"ERL_INETRC": str(self.directory / "inetrc")} if self._host else {}),
        }

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command that runs one of RabbitMQ's programs, such as `rabbitmqctl`. Valid after the first `start`."""
        return [*self._command_prefix, str(FOLDER / program), *arguments]

    def stop(self) -> None:
        super().stop()
        self._end_epmd()

    def kill(self) -> None:
        super().kill()
        self._end_epmd()

    def _prepare(self) -> None:
        self._command_prefix = command_prefix(self._say)
        if self._host is not None:
            self._command_prefix = [*self._host.command_prefix, *self._command_prefix]
        configuration = _CONFIGURATION.format(address=self.address, port=self.port)
        if self._tls is not None:
            configuration += _TLS_CONFIGURATION.format(port=self.tls_port, folder=self._tls)
        if self._member is not None:
            configuration += _CLUSTER_CONFIGURATION
            for number, name in enumerate(self._member.names, start=1):
                configuration += f"cluster_formation.classic_config.nodes.{number} = {name}\n"
            if self._member.network is not None:
                configuration += _NETWORK_CONFIGURATION
                (self.directory / "inetrc").write_text(_resolver(self._member.network))
            cookie = self.directory / ".erlang.cookie"
            cookie.write_text(self._member.cookie)
            cookie.chmod(0o400)
        (self.directory / "rabbitmq.conf").write_text(configuration)
        (self.directory / "advanced.config").write_text("[].")
        (self.directory / "enabled_plugins").write_text("[].")

    def _launch(self) -> GuardedProcess:
        if self._member is None or self._host is not None:
            self._epmd = start_epmd(self._command_prefix, self._epmd_port, self.log, self.directory, self.address)
        return self._spawn(self.command("rabbitmq-server"), self.environment)

    def _end_epmd(self) -> None:
        if self._epmd:
            self._epmd.kill()


def _resolver(network: Network) -> str:
    """What Erlang knows of hosts. There is nobody on a network of our own whom it could ask, and to try takes long."""
    hosts = [("127.0.0.1", "localhost"), *((host.address, host.name) for host in network.hosts)]
    lines = [f'{{host, {{{address.replace(".", ",")}}}, ["{name}"]}}.' for address, name in hosts]
    return "\n".join([*lines, "{lookup, [file]}.\n"])


def start_epmd(
    command_prefix: list[str], port: int, log: Path, directory: Path, address: str = "127.0.0.1"
) -> GuardedProcess:
    """Start Erlang's port mapper of the chosen version, and wait until it listens. Raises ServiceError otherwise.

    It must listen before a server starts; otherwise the server would start one that never ends.
    """
    epmd = GuardedProcess(
        [*command_prefix, "epmd"],
        environment={"PATH": os.defpath, **_epmd_environment(address, port)},
        log=log,
        scratch=directory,
    )
    if not wait_until(lambda: answers(address, port, b"", b""), _EPMD_TIMEOUT_S):
        raise ServiceError(f"epmd, Erlang's port mapper, did not listen on port {port}:\n{tail(log)}")
    return epmd


def _epmd_environment(address: str, port: int) -> dict[str, str]:
    return {"ERL_EPMD_ADDRESS": address, "ERL_EPMD_PORT": str(port)}
