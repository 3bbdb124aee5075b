"""The system under test: a private broker, a private database, two workers, and proxies between them."""

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
from random import Random
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from local.pgbouncer import LocalPgBouncer
from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from local.processes import GuardedProcess, descendants
from local.rabbitmq import LocalRabbitMQ
from tests.chaos.exporters import SharedLock
from tests.chaos.proxy import Proxy
from tests.chaos.standby import PRIMARY_SETTINGS, Standby

WORKERS: Final = 2
STOP_TIMEOUT_S: Final = 30
RABBITMQCTL_TIMEOUT_S: Final = 15
ROOT: Final = Path(__file__).parents[2]

VERIFY_LINES_MAX: Final = 10
"""Of what `verify` prints, so many lines are reported."""

RUN_COMMAND: Final = "from cli.main import main; main()"

SHORT_TIMEOUTS: Final = {
    "EXPORT_RUNS_HEARTBEAT_S": "1",
    "EXPORT_RUNS_STATEMENT_TIMEOUT_S": "4",
    "EXPORT_RUNS_LOCK_TIMEOUT_S": "2",
}
"""Shorter than the longest fault, so that workers not only wait for a frozen, stopped or locked server, but also give
up. They must not be much shorter, as writers wait for each other: with a lock time-out of 0.5 s, a backlog of events
with common claims takes 20 s."""

PLANTS: Final = {
    "ack-before-commit": "",
    "drop-dedupe": "ALTER TABLE export_run_events DROP CONSTRAINT export_run_events_pkey;"
    " CREATE INDEX ON export_run_events (event_id)",
    "forget-one-event": "",
    "unsorted-upsert": "",
    "ignore-leases": "",
    "forget-alerts": "",
    "reply-twice": "",
    "lock-timeout-is-outage": "",
    "ack-without-standby": "",
    "undo-reversals": "",
    "none": "",
}
"""The bugs that workers can have (planted.py), each with the change of the database that it needs."""


SLOW_ORG: Final = "org-slow"
"""An event of this organisation takes `sleepS` seconds to store, if it has that field."""

SLEEP: Final = f"""
    CREATE FUNCTION chaos_sleep() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep((NEW.payload ->> 'sleepS')::float);
        RETURN NEW;
    END $$;
    CREATE TRIGGER chaos_sleep BEFORE INSERT ON export_run_events FOR EACH ROW
        WHEN (NEW.org_id = '{SLOW_ORG}' AND NEW.payload ->> 'sleepS' IS NOT NULL) EXECUTE FUNCTION chaos_sleep();
"""


ADMIN_SESSION: Final = {
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "enable_seqscan": "on",
    "plan_cache_mode": "auto",
}
"""What the campaign's own connections ask for. With pgbouncer, `migrate` makes the worker's settings the role's."""


class Worker:
    """A worker in a process of its own. It runs all the time, except while a fault stops it."""

    def __init__(self, number: int, environment: dict[str, str], plant: str | None, log: Path) -> None:
        self.number = number
        self.log = log
        self._environment = environment
        self._arguments = ["-m", "tests.chaos.planted", plant] if plant else ["-c", RUN_COMMAND]
        self._process: GuardedProcess | None = None
        self._start_t = 0.0
        self.lock = asyncio.Lock()
        self.resident_bytes: list[int] = []
        """Its resident memory at each measurement."""

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.exit_code is not None

    @property
    def age_s(self) -> float:
        """The seconds since its start."""
        return time.monotonic() - self._start_t

    def start(self) -> None:
        """Start it. Returns before it serves."""
        self._start_t = time.monotonic()
        self._process = GuardedProcess(
            [sys.executable, *self._arguments, "worker"], environment=self._environment, log=self.log
        )

    async def terminate(self) -> int:
        """Send SIGTERM and wait for its end. Returns the exit code."""
        process, self._process = self._process, None
        assert process is not None
        return await asyncio.to_thread(process.stop, signal.SIGTERM, STOP_TIMEOUT_S)

    async def kill(self) -> None:
        """Send SIGKILL and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.kill)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, if it runs."""
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_part(self, random: Random) -> bool:
        """SIGKILL one of its parts, which it starts again by itself. Returns whether there was one."""
        parts = [pid for pid in self._pids() if "--only" in _arguments_of(pid)]
        if parts:
            with suppress(ProcessLookupError):
                os.kill(random.choice(parts), signal.SIGKILL)
        return bool(parts)

    def _pids(self) -> list[int]:
        if self._process is None:
            return []
        return [self._process.pid, *descendants(self._process.pid)]

    def measure(self) -> None:
        """Measure the resident memory of all its processes."""
        kibibytes = 0
        for pid in self._pids():
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                kibibytes += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        if kibibytes:
            self.resident_bytes.append(kibibytes * 1024)


def _arguments_of(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


@dataclass
class SystemUnderTest:
    """Everything that a fault can break. A fault holds the lock of the server that it breaks."""

    broker: LocalRabbitMQ
    database: LocalPostgreSQL
    standby: Standby
    broker_wire: Proxy
    database_wires: list[Proxy]
    """One per worker."""

    workers: list[Worker]
    publish_lock: SharedLock = field(default_factory=SharedLock)
    broker_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    database_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unexpected_ends: int = 0
    large_run_id: str | None = None
    """A run that fits into no reply, once it is stored."""

    async def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl in the broker's own environment. Returns its output, which is empty if it fails."""
        process = await asyncio.create_subprocess_exec(
            *self.broker.command("rabbitmqctl", "-q", *arguments),
            env=self.broker.environment,
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
        """A connection to the database that does not go through the proxy."""
        connection = await asyncpg.connect(self.database.url, timeout=5, server_settings=ADMIN_SESSION)
        try:
            yield connection
        finally:
            connection.terminate()

    async def keep_workers_up(self) -> None:
        """Measure the workers. Count the workers that end by themselves, and start them again."""
        while True:
            for worker in self.workers:
                if not worker.lock.locked() and worker.has_ended:
                    self.unexpected_ends += 1
                    worker.start()
                worker.measure()
            await asyncio.sleep(0.2)


def through(url: str, proxy: Proxy) -> str:
    """The same URL, with the port of the proxy."""
    parts = urlsplit(url)
    credentials, _, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{proxy.port}"))


@asynccontextmanager
async def system_under_test(
    directory: Path, plant: str | None, *, has_pgbouncer: bool
) -> AsyncIterator[SystemUnderTest]:
    """Start the servers, migrate the database, start the workers. The workers log into `directory`.

    With a pgbouncer, the workers reach the database only through it, in transaction mode.
    """
    async with AsyncExitStack() as stack:
        broker = LocalRabbitMQ()
        database = LocalPostgreSQL(NOT_DURABLE | PRIMARY_SETTINGS)
        standby = Standby(database)
        for server in (broker, database, standby):
            stack.push_async_callback(asyncio.to_thread, server.close)
        await asyncio.gather(asyncio.to_thread(broker.start), asyncio.to_thread(database.start))
        await standby.start()
        database_port = database.port
        if has_pgbouncer:
            pgbouncer = LocalPgBouncer(database.url)
            stack.push_async_callback(asyncio.to_thread, pgbouncer.close)
            await asyncio.to_thread(pgbouncer.start)
            database_port = pgbouncer.port
        broker_wire, *database_wires = Proxy(broker.port), *(Proxy(database_port) for _ in range(WORKERS))
        for wire in (broker_wire, *database_wires):
            await wire.open()
            stack.callback(wire.close)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EXPORT_RUNS_")},
            "PYTHONPATH": str(ROOT),
            "EXPORT_RUNS_AMQP_URL": through(broker.url, broker_wire),
            "EXPORT_RUNS_DATABASE_URL": database.url,
            "EXPORT_RUNS_TRANSACTION_POOLING": str(has_pgbouncer).lower(),
            **SHORT_TIMEOUTS,
        }
        await _migrate(environment)
        connection = await asyncpg.connect(database.url)
        await connection.execute(SLEEP)
        if plant and PLANTS[plant]:
            await connection.execute(PLANTS[plant])
        await connection.close()
        workers = [
            Worker(
                number,
                {**environment, "EXPORT_RUNS_DATABASE_URL": through(database.url, wire)},
                plant,
                directory / f"worker-{number}.log",
            )
            for number, wire in enumerate(database_wires)
        ]
        for worker in workers:
            stack.push_async_callback(worker.kill)
            worker.start()
        yield SystemUnderTest(broker, database, standby, broker_wire, database_wires, workers)


async def _migrate(environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN_COMMAND, "migrate", env=environment, stdout=subprocess.DEVNULL
    )
    if await process.wait() != 0:
        raise RuntimeError("the database could not be migrated")


async def differences_from_log(database_url: str) -> list[str]:
    """What `export-runs verify` finds in the database, one line for each row that is not as the log says."""
    return await _complaints("verify", database_url)


async def rebuild_failures(database_url: str) -> list[str]:
    """What `export-runs rebuild` says if it fails: beside the workers it makes the tables anew from the log."""
    return await _complaints("rebuild", database_url)


async def _complaints(command: str, database_url: str) -> list[str]:
    """What a command prints, if its exit code is not 0."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EXPORT_RUNS_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN_COMMAND,
        command,
        env={**environment, "PYTHONPATH": str(ROOT), "EXPORT_RUNS_DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode == 0:
        return []
    return [*output.decode().splitlines()[:VERIFY_LINES_MAX], *errors.decode().splitlines()[-VERIFY_LINES_MAX:]]
