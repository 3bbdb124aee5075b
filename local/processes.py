"""What the servers share: child processes that end with this process, free ports, probes, messages."""

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

# Below the range from which the kernel takes ports for outgoing connections. While its server is down, a port of that
# range can be taken by another process, even by a client that tries to reconnect: it may connect to itself.
_PORTS = range(20_000, 32_000)
_PORT_ATTEMPTS_MAX = 100

_PROBE_TIMEOUT_S = 2.0
_PROBE_INTERVAL_S = 0.02
_VANISH_TIMEOUT_S = 10.0

# Runs "$@" with a watcher beside it, in the same process group (which `kill` calls 0). The watcher reads a pipe that
# only our process holds open for writing, so the read returns when our process ends, whatever ended it. The watcher
# sends SIGQUIT first because PostgreSQL then gives back its shared memory.
_WATCHER = """
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
    """A service for development could not be found, installed or started. The text says which one and why."""


def say(text: str) -> None:
    """Print a message for the person at the terminal, to standard error."""
    print(text, file=sys.stderr, flush=True)


class GuardedProcess:
    """A child process that is killed when this process ends for any reason. It leads a session of its own.

    So it gets no signals from the terminal: a Ctrl-C reaches only this process, which then stops its children in
    the right order.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        """Start `arguments`. If there is no such program, the exit code is 127.

        Its output is appended to `log`, or goes where the output of this process goes. `scratch` is its working
        directory; the watcher removes it if this process ends without having removed it.
        """
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | None = stack.enter_context(log.open("ab")) if log else None
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHER, str(scratch or ""), *map(str, arguments)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                cwd=scratch,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal. None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return the exit code. Raises subprocess.TimeoutExpired after `timeout_s`."""
        code = self._process.wait(timeout_s)
        self._end_group()
        return code

    def stop(self, by: signal.Signals, timeout_s: float) -> int:
        """Send it the signal `by`, kill it if it still runs after `timeout_s`, and return the exit code."""
        self._process.send_signal(by)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()

    def kill(self) -> None:
        """Kill it and every process it has started, and wait until they are gone."""
        if self.exit_code is None:
            kill_tree(self.pid)
        self._end_group()
        self._process.wait()

    def _end_group(self) -> None:
        """Kill what is left of the process group: the watcher, at least."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._process.stdin:
            self._process.stdin.close()


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports on 127.0.0.1 that nobody listens on. Raises ServiceError if there are too few.

    Until this process ends, no other process gets them from here: it holds the UDP ports of the same numbers.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, min(_PORT_ATTEMPTS_MAX, len(_PORTS))):
        if len(found) == count:
            break
        if _reserve(port):
            found.append(port)
    if len(found) < count:
        raise ServiceError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1")
    return found


def _reserve(port: int) -> bool:
    """Mark a port as taken until this process ends; or say that somebody listens there, or has marked it."""
    with socket.socket(type=socket.SOCK_DGRAM) as mark, contextlib.suppress(OSError):
        mark.bind(("127.0.0.1", port))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
        mark.detach()  # stays open until the process ends
        return True
    return False


def answers(host: str, port: int, greeting: bytes, reply: bytes) -> bool:
    """Whether a server answers `greeting` with bytes that start with `reply`, within _PROBE_TIMEOUT_S."""
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(greeting)
            return not reply or connection.recv(len(reply)) == reply
    except OSError:
        return False


def wait_until(ready: Callable[[], bool], timeout_s: float, check: Callable[[], None] = lambda: None) -> bool:
    """Poll `ready` until it returns True, or until `timeout_s` have passed; returns whether it did.

    `check` is called before each pause, and may raise to end the wait.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        check()
        if time.monotonic() > deadline:
            return False
        time.sleep(_PROBE_INTERVAL_S)
    return True


def tail(log: Path) -> str:
    """The end of a log file, for an error message: at most LOG_TAIL_BYTES_MAX."""
    with contextlib.suppress(FileNotFoundError):
        return log.read_bytes()[-LOG_TAIL_BYTES_MAX:].decode(errors="replace").strip()
    return "(no log)"


def kill_tree(pid: int) -> None:
    """Kill a process and every process it has started, and wait until they are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # so that it starts no more children while we list them
    tree = [pid, *descendants(pid)]
    for each in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    wait_until(lambda: not any(map(_is_alive, tree)), _VANISH_TIMEOUT_S)


def descendants(pid: int) -> list[int]:
    """Process ids of all children and their children. Empty on a system that has no /proc."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        lists = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for one in lists for child in one.read_text().split()]
        return children + [found for child in children for found in descendants(child)]
    return []


def _is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
