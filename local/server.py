"""What the local servers have in common: each has a port and a directory of its own, also after a crash."""

from __future__ import annotations

import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from local.processes import GuardedProcess, ServiceError, answers, free_ports, tail, wait_until

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


class LocalServer(ABC):
    """A server that runs from binaries of this machine, on its `address`. It ends with this process.

    After `stop` or `kill`, `start` starts it again on the same port with the same data. `close`, or the end of the
    `with` block, ends it and removes its directory. Use it from one thread; only `close` may be called from another.
    """

    port: int
    """The TCP port, the same at every start."""

    address = "127.0.0.1"

    def __init__(self, name: str, stop_signal: signal.Signals, greeting: bytes, reply: bytes) -> None:
        """On `stop_signal` the server stops. When it is ready, it answers `greeting` with `reply`."""
        (self.port,) = free_ports(1)
        self._name = name
        self._stop_signal = stop_signal
        self._greeting = greeting
        self._reply = reply
        self._directory: Path | None = None
        self._process: GuardedProcess | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL to connect to, with user and password. Valid after the first `start`, and the same after each."""

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.exit_code is None

    @property
    def pid(self) -> int:
        """The process id of the running server. Raises ServiceError if it is not running."""
        if self._process is None or self._process.exit_code is not None:
            raise ServiceError(f"{self._name} is not running")
        return self._process.pid

    @property
    def log(self) -> Path:
        """The file to which the server's output is appended."""
        return self.directory / "server.log"

    @property
    def directory(self) -> Path:
        """The server's own directory. Raises ServiceError before the first `start` and after `close`."""
        if self._directory is None:
            raise ServiceError(f"{self._name} was never started")
        return self._directory

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises ServiceError, with the end of its log, if it ends or does not answer within START_TIMEOUT_S.
        """
        if self.is_running:
            raise ServiceError(f"{self._name} is already running")
        self.kill()  # ends what a server that has ended by itself left behind
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"export-runs-{self._name}-".lower()))
            try:
                self._prepare()
            except BaseException:
                self.close()
                raise
        process = self._process = self._launch()

        def give_up_if_ended() -> None:
            if process.exit_code is not None:
                raise ServiceError(f"{self._name} ended with code {process.exit_code}:\n{tail(self.log)}")

        if not wait_until(self.answers, START_TIMEOUT_S, give_up_if_ended):
            raise ServiceError(f"{self._name} did not answer in {START_TIMEOUT_S:.0f} s:\n{tail(self.log)}")

    def answers(self) -> bool:
        """Whether it serves who connects now."""
        return answers(self.address, self.port, self._greeting, self._reply)

    def stop(self) -> None:
        """Stop it, and kill it if it still runs after STOP_TIMEOUT_S. Nothing happens if it does not run."""
        if self._process:
            self._process.stop(self._stop_signal, STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Crash it: send SIGKILL to the server and all its processes. Nothing happens if it does not run."""
        if self._process:
            self._process.kill()

    def close(self) -> None:
        """End it, or its start, and remove its data. A second call does nothing."""
        directory, self._directory = self._directory, None  # a start that is still going on fails without it
        self.kill()
        if directory and not wait_until(lambda: _remove(directory), STOP_TIMEOUT_S):
            raise ServiceError(f"{self._name} has ended, but {directory} cannot be removed")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _prepare(self) -> None:
        """Fill the new directory with what the server needs to start for the first time."""

    @abstractmethod
    def _launch(self) -> GuardedProcess:
        """Start the server's process."""

    def _spawn(self, arguments: Sequence[str | Path], environment: Mapping[str, str]) -> GuardedProcess:
        """Start a process of this server, with its log and in its directory."""
        return GuardedProcess(arguments, environment=environment, log=self.log, scratch=self.directory)


def _remove(directory: Path) -> bool:
    """Try to remove a directory that others may still write to. Returns whether it is gone."""
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()
