"""A RabbitMQ server for development, from the Debian package `rabbitmq-server`, installed if need be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from local.processes import GuardedProcess, ServiceError, answers, free_ports, say, wait_until
from local.server import LocalServer

# The script itself: the command of that name in PATH is a wrapper that insists on the user "rabbitmq".
_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"  # a broker that has started offers to negotiate; any other answer is a refusal
_EPMD_TIMEOUT_S = 10.0
_INSTALL_OUTPUT_CHARACTERS_MAX = 2_000

_CONFIGURATION = """
listeners.tcp.local = 127.0.0.1:{port}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.4
# Half a gigabyte by default: more than a test needs in memory, and more to read again after a crash.
raft.wal_max_size_bytes = 67108864
"""

# Two schedulers are plenty. Erlang loads hundreds of small files as it starts, each handed to another thread:
# threads that spin a little before they sleep, which RabbitMQ turns off, halve the time that takes.
_ERLANG_ARGUMENTS = "+S 2:2 +sbwt short +sbwtdio long -kernel inet_dist_use_interface {127,0,0,1}"

# A policy-rc.d that says no keeps apt from starting the service: its port may be somebody else's.
_INSTALL = """
set -e
policy=/usr/sbin/policy-rc.d
if ! [ -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\\nexit 101\\n' >$policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 rabbitmq-server
"""


class LocalRabbitMQ(LocalServer):
    """RabbitMQ on 127.0.0.1, user guest, no plugins. Erlang's port mapper is private to it and ends with it.

    The first `start` on a machine that lacks the package installs it, and tells `say`.
    """

    def __init__(self, say: Callable[[str], None] = say) -> None:
        super().__init__("RabbitMQ", signal.SIGTERM, PROTOCOL_HEADER, METHOD_FRAME)
        self._say = say
        self._distribution_port, self._epmd_port = free_ports(2)
        self._epmd: GuardedProcess | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def stop(self) -> None:
        super().stop()
        self._end_epmd()

    def kill(self) -> None:
        super().kill()
        self._end_epmd()

    def _prepare(self) -> None:
        if not _PROGRAM.exists():
            _install(self._say)
        (self.directory / "rabbitmq.conf").write_text(_CONFIGURATION.format(port=self.port))
        (self.directory / "advanced.config").write_text("[].")
        (self.directory / "enabled_plugins").write_text("[].")

    def _launch(self) -> GuardedProcess:
        # Nothing is inherited: a RABBITMQ_ variable of the developer's must not reach this server.
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": str(self.directory),  # for the Erlang cookie
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": "export-runs@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_LOGS": "-",  # to its output, which is our log file
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG_ARGUMENTS,
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, instead of waiting for it
        }
        # It must listen before the server starts, which would otherwise start a lasting one of its own.
        self._epmd = self._spawn(["epmd"], environment)
        if not wait_until(lambda: answers("127.0.0.1", self._epmd_port, b"", b""), _EPMD_TIMEOUT_S):
            raise ServiceError(f"epmd, Erlang's port mapper, did not listen on port {self._epmd_port}")
        return self._spawn([_PROGRAM], environment)

    def _end_epmd(self) -> None:
        if self._epmd:
            self._epmd.kill()


def _install(say: Callable[[str], None]) -> None:
    """Install the package, as root or by a sudo that asks no password; raises ServiceError if it cannot."""
    advice = "install rabbitmq-server, start a Docker engine, or name a broker in EXPORT_RUNS_AMQP_URL"
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if not all(map(shutil.which, ["apt-get", *as_root[:1]])):
        raise ServiceError(f"RabbitMQ is not installed here and cannot be: {advice}")
    say("Installing rabbitmq-server with apt-get, which takes about 15 seconds ...")
    # In a session of its own, and waited for: a Ctrl-C must not leave the package half installed.
    done = subprocess.run(
        [*as_root, "sh", "-c", _INSTALL],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if done.returncode != 0 or not _PROGRAM.exists():
        output = done.stdout.strip()[-_INSTALL_OUTPUT_CHARACTERS_MAX:]
        raise ServiceError(f"apt-get could not install rabbitmq-server; {advice}. It said:\n{output}")
