"""A network on this machine, for servers that shall lose each other: hosts at one switch, which can part two of them.

Each host is a network namespace of Linux, and so is the switch. They last as long as a process that does nothing in
them, so nothing is left when this process ends, whatever ended it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.processes import GuardedProcess, ServiceError, wait_until

# Of 198.18.0.0/15, which is for tests between networks (RFC 2544): nobody's own.
_NETWORKS: Final = 512
_MAIN_HOST: Final = 254
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Host:
    """A place in which servers run that have an address of their own."""

    name: str
    address: str
    pid: int
    """Of a process that is in its namespace."""

    @property
    def command_prefix(self) -> list[str]:
        """What to write before a command, so that it runs on this host. It becomes that command."""
        return _enter(self.pid)


class Network:
    """Hosts that reach each other, and that this process reaches at their addresses."""

    def __init__(self, hosts: Sequence[Host], switch_pid: int) -> None:
        self.hosts = hosts
        self._switch_pid = switch_pid

    @contextmanager
    def cut(self, one: Host, other: Host) -> Iterator[None]:
        """Drop what these two send to each other, until the end. Everybody else reaches both. One cut at a time."""
        self._isolate((one, other), "on")
        try:
            yield
        finally:
            self._isolate((one, other), "off")

    def _isolate(self, hosts: Sequence[Host], value: str) -> None:
        """Isolated ports of a switch exchange nothing with each other."""
        for host in hosts:
            _ip(self._switch_pid, "link", "set", host.name, "type", "bridge_slave", "isolated", value)


@contextmanager
def network(names: Sequence[str]) -> Iterator[Network]:
    """A network of hosts with these names, of at most 15 letters. Raises ServiceError where this machine cannot."""
    if os.geteuid() != 0:
        raise ServiceError("only root can make a network of its own")
    if missing := [program for program in ("ip", "unshare", "nsenter") if not shutil.which(program)]:
        raise ServiceError(f"a network of its own needs {' and '.join(missing)}")
    number = random.randrange(_NETWORKS)
    prefix = f"198.{18 + number // 256}.{number % 256}"
    with ExitStack() as stack:
        switch, *pids = [_namespace(stack) for _ in ("switch", *names)]
        _ip(switch, "link", "add", "name", "switch", "type", "bridge")
        _ip(switch, "link", "set", "switch", "up")
        addresses = [f"{prefix}.{place}" for place in range(1, len(names) + 1)]
        hosts = list(map(Host, names, addresses, pids))
        for host in hosts:
            _plug(switch, host.name, host.pid, "eth0", host.address)
            _ip(host.pid, "link", "set", "lo", "up")
        _plug(switch, "main", os.getpid(), f"chaos-{number}", f"{prefix}.{_MAIN_HOST}")
        yield Network(hosts, switch)


def _namespace(stack: ExitStack) -> int:
    """The process id of a process in a new network namespace, which ends with `stack`."""
    holder = GuardedProcess(["unshare", "--net", "sleep", "infinity"], environment={"PATH": os.defpath})
    stack.callback(holder.kill)
    own = Path("/proc/self/ns/net").readlink()

    def has_entered() -> bool:
        with suppress(OSError):
            return Path(f"/proc/{holder.pid}/ns/net").readlink() != own
        return False

    if not wait_until(lambda: has_entered() or holder.exit_code is not None, _TIMEOUT_S) or not has_entered():
        raise ServiceError("this machine makes no network namespaces")
    return holder.pid


def _plug(switch: int, port: str, pid: int, device: str, address: str) -> None:
    """Connect a device in the namespace of `pid` with a new port of the switch."""
    _ip(switch, "link", "add", "name", port, "type", "veth", "peer", "name", device, "netns", str(pid))
    _ip(switch, "link", "set", port, "master", "switch", "up")
    _ip(pid, "address", "add", f"{address}/24", "dev", device)
    _ip(pid, "link", "set", device, "up")


def _enter(pid: int) -> list[str]:
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


def _ip(pid: int, *arguments: str) -> None:
    done = subprocess.run(
        [*_enter(pid), "ip", *arguments],
        env={"PATH": os.defpath},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise ServiceError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
