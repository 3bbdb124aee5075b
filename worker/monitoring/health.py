"""What one process of a worker knows of its own state."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, Self

import structlog
from prometheus_client import generate_latest

import sql
from worker.metrics import BUILD_INFO, REGISTRY
from worker.settings import WorkerSettings, effective_settings

DISTRIBUTION: Final = "export-run-repository"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def set_build_info() -> None:
    """Have the metrics say which version this is."""
    BUILD_INFO.labels(metadata.version(DISTRIBUTION), str(len(sql.migrations()))).set(1)


def log_start(settings: WorkerSettings) -> None:
    """Have the log say which version starts, and with which settings."""
    log.info(
        "worker_started",
        version=metadata.version(DISTRIBUTION),
        schema_version=len(sql.migrations()),
        settings=effective_settings(settings),
    )


@dataclass(slots=True)
class Health:
    """What has to be there for work to be done. Whoever finds out writes it here."""

    has_session: bool = False
    """Whether the queues are being consumed."""

    database_away_s: Callable[[], float] | None = None
    """For how long, in seconds, the database cannot be used; 0 if it can."""

    @contextmanager
    def in_session(self) -> Iterator[None]:
        """The queues are being consumed while this lasts."""
        self.has_session = True
        try:
            yield
        finally:
            self.has_session = False

    def obstacles(self) -> list[str]:
        """What keeps this process from its work, a sentence for each; empty if it works."""
        found = []
        if not self.has_session:
            found.append("there is no session with RabbitMQ")
        if self.database_away_s is None:
            found.append("nobody has looked at the database yet")
        elif (away_s := self.database_away_s()) > 0:
            found.append(f"the database cannot be used, for {away_s:.0f} s now")
        return found


@dataclass(frozen=True, slots=True)
class Report:
    """What one process of a worker says of itself. Without an answer in time it is not alive."""

    part: str
    is_alive: bool
    obstacles: list[str]
    metrics: str

    @classmethod
    def of(cls, part: str, obstacles: list[str]) -> Self:
        """The report of this process."""
        return cls(part, True, obstacles, generate_latest(REGISTRY).decode())

    @classmethod
    def of_silence(cls, part: str, reason: str, *, is_alive: bool) -> Self:
        """The report of a process that says nothing."""
        return cls(part, is_alive, [reason], "")

    def to_line(self, question: int) -> bytes:
        """The report as one line of JSON, in answer to this question."""
        answer = {"question": question, "obstacles": self.obstacles, "metrics": self.metrics}
        return json.dumps(answer).encode() + b"\n"

    @classmethod
    def of_line(cls, part: str, line: bytes) -> tuple[int, Self]:
        """The report that a process sent, and the question that it answers. Raises ValueError."""
        fields: dict[str, Any] = json.loads(line)
        return fields["question"], cls(part, True, fields["obstacles"], fields["metrics"])
