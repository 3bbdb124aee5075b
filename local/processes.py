"""The small tools of this package: processes that cannot outlive this one, ports, probes, messages."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

LOG_TAIL_BYTES_MAX = 3_000

# Below the range from which the kernel takes ports for outgoing connections. A port of that range could be
# lost while its server is down, even to a client that tries to reconnect: it may connect to itself.
_PORTS = range(20_000, 32_000)
_PORT_ATTEMPTS_MAX = 100

_PROBE_TIMEOUT_S = 2.0
_PROBE_INTERVAL_S = 0.02
_VANISH_TIMEOUT_S = 10.0

# Runs "$@" with a watcher beside it, in the same process group ("0" to kill). The watcher reads a pipe that
# only our process holds open for writing: the read ends when our process does, however it ends. SIGQUIT comes
# first because it lets PostgreSQL give back its shared memory, which nobody else would.
_WATCHED = """
ulimit -c 0
exec 3<&0 </dev/null
(
    trap '' QUIT
    { read -r _ <&3; kill -QUIT 0; sleep 1; kill -KILL $$; [ -z "$0" ] || rm -rf -- "$0"; kill -KILL 0; } &
) 2>/dev/null
exec 3<&-
exec "$@"
"""


class ServiceError(RuntimeError):
    """A service for development could not be found, installed or started. The text says which and why."""


def say(text: str) -> None:
    """Tell the person at the terminal, without getting into the output proper."""
    print(text, file=sys.stderr, flush=True)


class GuardedProcess:
    """A child process, leader of a session of its own, that is killed when this process ends for any reason.

    It gets no signals from the terminal: a Ctrl-C reaches this process alone, which stops its children in
    an order of its own.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        """Start `arguments`; a program that is not there shows as exit code 127.

        Its output is appended to `log`, or goes where ours goes. `scratch` is its working directory, removed
        as well if this process ends without having done so.
        """
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | None = stack.enter_context(log.open("ab")) if log else None
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, str(scratch or ""), *map(str, arguments)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                cwd=scratch,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return the exit code; raises subprocess.TimeoutExpired after `timeout_s`."""
        code = self._process.wait(timeout_s)
        self._end_group()
        return code

    def stop(self, by: signal.Signals, timeout_s: float) -> int:
        """Ask it to stop with signal `by`, kill it if it has not after `timeout_s`; return the exit code."""
        self._process.send_signal(by)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()

    def kill(self) -> None:
        """SIGKILL it and every process it has started, and wait until they are gone."""
        self._process.send_signal(signal.SIGSTOP)  # so that it starts no more while we look
        children = _descendants(self.pid) if self.exit_code is None else []
        self._end_group()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + _VANISH_TIMEOUT_S
        while any(map(_is_alive, children)) and time.monotonic() < deadline:
            time.sleep(_PROBE_INTERVAL_S)

    def _end_group(self) -> None:
        """Kill what is left of the process group: the watcher, at least."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._process.stdin:
            self._process.stdin.close()


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports that nobody listens on at 127.0.0.1 now."""
    found: list[int] = []
    for port in random.sample(_PORTS, _PORT_ATTEMPTS_MAX):
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    if len(found) < count:
        raise ServiceError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1")
    return found


def answers(host: str, port: int, greeting: bytes, reply: bytes) -> bool:
    """Whether a server there answers `greeting` with bytes that start with `reply`, within two seconds."""
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(greeting)
            return not reply or connection.recv(len(reply)) == reply
    except OSError:
        return False


def wait_until(ready: Callable[[], bool], timeout_s: float, check: Callable[[], None] = lambda: None) -> bool:
    """Poll `ready` until it holds (True) or `timeout_s` have passed (False); `check` may raise to end it."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        check()
        if time.monotonic() > deadline:
            return False
        time.sleep(_PROBE_INTERVAL_S)
    return True


def tail(log: Path) -> str:
    """The last few lines of a log file, for an error message."""
    with contextlib.suppress(FileNotFoundError):
        return log.read_bytes()[-LOG_TAIL_BYTES_MAX:].decode(errors="replace").strip()
    return "(no log)"


def _descendants(pid: int) -> list[int]:
    """Process ids of all children, and theirs; empty on a system that has no /proc."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        lists = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for one in lists for child in one.read_text().split()]
        return children + [found for child in children for found in _descendants(child)]
    return []


def _is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
