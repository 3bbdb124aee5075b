"""What the campaign breaks: a private broker, a private database, two workers, and the wires between them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from local.processes import GuardedProcess
from local.rabbitmq import LocalRabbitMQ
from tests.chaos.exporters import Gate
from tests.chaos.proxy import Proxy

WORKERS: Final = 2
STOP_TIMEOUT_S: Final = 30
RABBITMQCTL_TIMEOUT_S: Final = 15
RABBITMQCTL: Final = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")
ROOT: Final = Path(__file__).parents[2]

RUN_COMMAND: Final = "from worker.cli import main; main()"

SHORT_TIMEOUTS: Final = {
    "EXPORT_RUNS_HEARTBEAT_S": "1",
    "EXPORT_RUNS_STATEMENT_TIMEOUT_S": "4",
    "EXPORT_RUNS_LOCK_TIMEOUT_S": "2",
}
"""Shorter than the longest fault: what is frozen, stopped or locked is given up, and not only waited for. But writers
must have time to wait for each other: with 0.5 s for a lock, a backlog of events with common claims takes 20 s."""

PLANTS: Final = {
    "ack-before-commit": "",
    "drop-dedupe": "ALTER TABLE export_run_events DROP CONSTRAINT export_run_events_pkey;"
    " CREATE INDEX ON export_run_events (event_id)",
    "forget-one-event": "",
    "unsorted-upsert": "",
    "ignore-leases": "",
    "forget-alerts": "",
    "reply-twice": "",
}
"""The bugs that workers can have (planted.py), each with what it does to the database."""


class Worker:
    """A worker in a process of its own, which is meant to run except while a fault has it down."""

    def __init__(self, number: int, environment: dict[str, str], plant: str | None, log: Path) -> None:
        self.number = number
        self.log = log
        self._environment = environment
        self._arguments = ["-m", "tests.chaos.planted", plant] if plant else ["-c", RUN_COMMAND]
        self._process: GuardedProcess | None = None
        self._started = 0.0
        self.lock = asyncio.Lock()
        self.resident_bytes: list[int] = []
        """Its memory, from measurement to measurement."""

    @property
    def has_ended(self) -> bool:
        """Whether it is not running, though nobody stopped it."""
        return self._process is not None and self._process.exit_code is not None

    @property
    def age_s(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._started

    def start(self) -> None:
        """Start it; that it serves shows elsewhere."""
        self._started = time.monotonic()
        self._process = GuardedProcess(
            [sys.executable, *self._arguments, "worker"], environment=self._environment, log=self.log
        )

    async def terminate(self) -> int:
        """SIGTERM, and wait; returns the exit code."""
        process, self._process = self._process, None
        assert process is not None
        return await asyncio.to_thread(process.stop, signal.SIGTERM, STOP_TIMEOUT_S)

    async def kill(self) -> None:
        """SIGKILL, and wait."""
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.kill)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def measure(self) -> None:
        """Note how much memory it takes."""
        if self._process is None:
            return
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
            kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
            self.resident_bytes.append(kibibytes * 1024)


@dataclass
class World:
    """Everything that can break. Whoever breaks one of the locked takes its lock."""

    broker: LocalRabbitMQ
    database: LocalPostgreSQL
    broker_wire: Proxy
    database_wire: Proxy
    workers: list[Worker]
    gate: Gate = field(default_factory=Gate)
    broker_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    database_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unexpected_ends: int = 0

    async def rabbitmqctl(self, *arguments: str) -> str:
        """Run a command of the broker's in the broker's own environment; empty if it fails."""
        environment = Path(f"/proc/{self.broker.pid}/environ").read_text().rstrip("\0")
        process = await asyncio.create_subprocess_exec(
            RABBITMQCTL,
            "-q",
            *arguments,
            env=dict(pair.split("=", 1) for pair in environment.split("\0")),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), RABBITMQCTL_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            return ""
        return out.decode() if process.returncode == 0 else ""

    @asynccontextmanager
    async def admin(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection to the database past the proxy."""
        connection = await asyncpg.connect(
            self.database.url, timeout=5, server_settings={"default_transaction_read_only": "off"}
        )
        try:
            yield connection
        finally:
            connection.terminate()

    async def keep_workers_up(self) -> None:
        """Measure the workers, and start those again that ended by themselves, which none should."""
        while True:
            for worker in self.workers:
                if not worker.lock.locked() and worker.has_ended:
                    self.unexpected_ends += 1
                    worker.start()
                worker.measure()
            await asyncio.sleep(0.2)


def through(url: str, proxy: Proxy) -> str:
    """The same URL by way of a proxy."""
    parts = urlsplit(url)
    credentials, _, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{proxy.port}"))


@asynccontextmanager
async def world(directory: Path, plant: str | None) -> AsyncIterator[World]:
    """Bring everything up, with the schema in place; workers log into `directory`."""
    async with AsyncExitStack() as stack:
        broker = LocalRabbitMQ()
        database = LocalPostgreSQL(NOT_DURABLE)
        for server in (broker, database):
            stack.push_async_callback(asyncio.to_thread, server.close)
        await asyncio.gather(asyncio.to_thread(broker.start), asyncio.to_thread(database.start))
        wires = [Proxy(broker.port), Proxy(database.port)]
        for wire in wires:
            await wire.open()
            stack.callback(wire.close)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EXPORT_RUNS_")},
            "PYTHONPATH": str(ROOT),
            "EXPORT_RUNS_AMQP_URL": through(broker.url, wires[0]),
            "EXPORT_RUNS_DATABASE_URL": through(database.url, wires[1]),
            **SHORT_TIMEOUTS,
        }
        await _migrate(environment)
        if plant and PLANTS[plant]:
            connection = await asyncpg.connect(database.url)
            await connection.execute(PLANTS[plant])
            await connection.close()
        workers = [Worker(number, environment, plant, directory / f"worker-{number}.log") for number in range(WORKERS)]
        for worker in workers:
            stack.push_async_callback(worker.kill)
            worker.start()
        yield World(broker, database, wires[0], wires[1], workers)


async def _migrate(environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN_COMMAND, "migrate", env=environment, stdout=subprocess.DEVNULL
    )
    if await process.wait() != 0:
        raise RuntimeError("the database could not be migrated")
