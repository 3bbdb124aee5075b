"""What the local servers have in common: a port and a directory of their own, which outlive a crash."""

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
    """A server of this machine's own binaries, on 127.0.0.1, for as long as this process lives.

    `start` after `stop` or `kill` comes back on the same port with the same data. `close`, or the end of the
    `with` block, ends it and removes its directory. For one thread at a time; `close` may come from another.
    """

    port: int
    """The TCP port on 127.0.0.1, the same at every start."""

    def __init__(self, name: str, stop_signal: signal.Signals, greeting: bytes, reply: bytes) -> None:
        """`stop_signal` asks the server to stop; one that is ready answers `greeting` with `reply`."""
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
        """Where and as whom to connect; valid from the first `start` on, and the same after each."""

    @property
    def pid(self) -> int:
        """Process id of the running server; raises ServiceError if it is not running."""
        if self._process is None or self._process.exit_code is not None:
            raise ServiceError(f"{self._name} is not running")
        return self._process.pid

    @property
    def log(self) -> Path:
        """The file that everything the server says is appended to."""
        return self.directory / "server.log"

    @property
    def directory(self) -> Path:
        """The server's own directory; raises ServiceError before the first `start` and after `close`."""
        if self._directory is None:
            raise ServiceError(f"{self._name} was never started")
        return self._directory

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises ServiceError, with the end of its log, if it ends or does not answer within START_TIMEOUT_S.
        """
        if self._process and self._process.exit_code is None:
            raise ServiceError(f"{self._name} is already running")
        self.kill()  # what is left of one that has ended by itself
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

        if not wait_until(
            lambda: answers("127.0.0.1", self.port, self._greeting, self._reply),
            START_TIMEOUT_S,
            give_up_if_ended,
        ):
            raise ServiceError(f"{self._name} did not answer in {START_TIMEOUT_S:.0f} s:\n{tail(self.log)}")

    def stop(self) -> None:
        """Stop it in good order, within STOP_TIMEOUT_S, else by force. Nothing happens if it does not run."""
        if self._process:
            self._process.stop(self._stop_signal, STOP_TIMEOUT_S)

    def kill(self) -> None:
        """Crash it: SIGKILL to the server and all its processes. Nothing happens if it does not run."""
        if self._process:
            self._process.kill()

    def close(self) -> None:
        """End it, or its start, and remove its data. Nothing happens if that was done before."""
        directory, self._directory = self._directory, None  # a start under way cannot go on without it
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
        """Start a process of this server's, which logs to its log and lives in its directory."""
        return GuardedProcess(arguments, environment=environment, log=self.log, scratch=self.directory)


def _remove(directory: Path) -> bool:
    """Remove a directory, as far as that goes while others may still write to it; whether it is gone."""
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()
