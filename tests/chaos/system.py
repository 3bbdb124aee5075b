"""The system under test: a private broker, a private database, two workers, and proxies between them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from local.network import Network, network
from local.pgbouncer import LocalPgBouncer
from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from local.processes import GuardedProcess, ServiceError, descendants, say
from local.rabbitmq import LocalRabbitMQ
from tests.chaos.exporters import SharedLock
from tests.chaos.proxy import Proxy
from tests.chaos.standby import PRIMARY_SETTINGS, Standby
from tests.cluster import HOSTS, cluster

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

    nodes: list[LocalRabbitMQ]
    """Of the broker: one, or three that are a cluster."""

    database: LocalPostgreSQL
    """The primary."""

    standby: Standby
    broker_wire: Proxy
    database_wires: list[Proxy]
    """One per worker."""

    standby_wires: list[Proxy]
    """The same to the standby, on a cluster."""

    network: Network | None
    """Between the nodes of a cluster, where this machine can make one."""

    workers: list[Worker]
    retired_log: Path
    """What servers of the database have logged that are no more."""

    lost_primary: LocalPostgreSQL | None = None
    """The server that was the primary before the standby was promoted."""

    publish_lock: SharedLock = field(default_factory=SharedLock)
    broker_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    database_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unexpected_ends: int = 0
    large_run_id: str | None = None
    """A run that fits into no reply, once it is stored."""

    @property
    def broker(self) -> LocalRabbitMQ:
        """The broker, or a node of it that runs."""
        return next((node for node in self.nodes if node.is_running), self.nodes[0])

    @property
    def amqp_url(self) -> str:
        """The URLs of all nodes, with commas between."""
        return ",".join(node.url for node in self.nodes)

    @property
    def sent_bytes(self) -> list[int]:
        """How much each worker has sent to the database so far."""
        sent = [wire.request_bytes for wire in self.database_wires]
        to_standby = [wire.request_bytes for wire in self.standby_wires] or [0] * len(sent)
        return [sum(both) for both in zip(sent, to_standby, strict=True)]

    def keep_log(self, server: LocalPostgreSQL) -> None:
        """Keep what a server of the database has logged: its folder is about to go."""
        with self.retired_log.open("ab") as file:
            file.write(server.log.read_bytes())

    async def close_servers(self) -> None:
        """End all servers that are there now."""
        for server in (*self.nodes, self.database, self.standby, self.lost_primary):
            if server is not None:
                await asyncio.to_thread(server.close)

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


def through(url: str, *proxies: Proxy) -> str:
    """The same URL, with the ports of these proxies."""
    parts = urlsplit(url)
    credentials, _, _ = parts.netloc.rpartition("@")
    addresses = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
    return urlunsplit(parts._replace(netloc=f"{credentials}@{addresses}"))


@asynccontextmanager
async def system_under_test(
    directory: Path, plant: str | None, *, has_pgbouncer: bool, is_cluster: bool, needs_network: bool = False
) -> AsyncIterator[SystemUnderTest]:
    """Start the servers, migrate the database, start the workers. The workers log into `directory`.

    With a pgbouncer, the workers reach the database only through it, in transaction mode. On a cluster the broker has
    three nodes, which workers reach without a wire that could be broken, and workers know the standby as well. Raises
    ServiceError where something cannot be started. A network between the nodes may be missing, unless it is needed.
    """
    async with AsyncExitStack() as stack:
        database = LocalPostgreSQL(NOT_DURABLE | PRIMARY_SETTINGS)
        standby = Standby(database)
        for server in (database, standby):
            stack.push_async_callback(asyncio.to_thread, server.close)
        nodes_network = _entered_network(stack, is_needed=needs_network) if is_cluster else None
        nodes, _ = await asyncio.gather(
            asyncio.to_thread(stack.enter_context, _nodes(is_cluster, nodes_network)),
            asyncio.to_thread(database.start),
        )
        await standby.start()
        database_port = database.port
        if has_pgbouncer:
            pgbouncer = LocalPgBouncer(database.url)
            stack.push_async_callback(asyncio.to_thread, pgbouncer.close)
            await asyncio.to_thread(pgbouncer.start)
            database_port = pgbouncer.port
        broker_wire = Proxy(nodes[0].port)
        database_wires = [Proxy(database_port) for _ in range(WORKERS)]
        standby_wires = [Proxy(standby.port) for _ in range(WORKERS * is_cluster)]
        for wire in (broker_wire, *database_wires, *standby_wires):
            await wire.open()
            stack.callback(wire.close)
        amqp_urls = [node.url for node in nodes] if is_cluster else [through(nodes[0].url, broker_wire)]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EXPORT_RUNS_")},
            "PYTHONPATH": str(ROOT),
            "EXPORT_RUNS_AMQP_URL": ",".join(amqp_urls),
            "EXPORT_RUNS_RPC_QUEUE_TYPE": "quorum" if is_cluster else "classic",
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
        wires_of_workers = zip(database_wires, standby_wires, strict=True) if is_cluster else zip(database_wires)
        workers = [
            Worker(
                number,
                {**environment, "EXPORT_RUNS_DATABASE_URL": through(database.url, *wires)},
                plant,
                directory / f"worker-{number}.log",
            )
            for number, wires in enumerate(wires_of_workers)
        ]
        system = SystemUnderTest(
            nodes,
            database,
            standby,
            broker_wire,
            database_wires,
            standby_wires,
            nodes_network,
            workers,
            directory / "retired-databases.log",
        )
        stack.push_async_callback(system.close_servers)
        for worker in workers:
            stack.push_async_callback(worker.kill)
            worker.start()
        yield system


def _entered_network(stack: AsyncExitStack, *, is_needed: bool) -> Network | None:
    """A network with a host for each node, or None where this machine makes none: then it says why.

    Raises ServiceError in place of that where it is needed.
    """
    try:
        return stack.enter_context(network(HOSTS))
    except ServiceError as problem:
        if is_needed:
            raise
        say(f"Networks between nodes are not cut: {problem}.")
        return None


@contextmanager
def _nodes(is_cluster: bool, nodes_network: Network | None) -> Iterator[list[LocalRabbitMQ]]:
    """The nodes of the broker, while they are needed."""
    if is_cluster:
        with cluster(nodes_network) as nodes:
            yield nodes
    else:
        with LocalRabbitMQ() as broker:
            yield [broker]


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
