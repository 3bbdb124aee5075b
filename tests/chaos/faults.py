"""The faults. Each breaks something, waits a while, puts it right, and returns when the service is back.

What cannot be broken at once, because another fault is on, is tried until it is.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Final

import asyncpg

from tests.chaos.client import Client
from tests.chaos.ledger import Ledger
from tests.chaos.world import Worker, World

DATABASE_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
EVENT_QUEUES: Final = ("export-runs.run-created", "export-runs.run-finished")
REQUEST_QUEUES: Final = (
    "export-runs.rpc.check-claims",
    "export-runs.rpc.get-export-run-by-id",
    "export-runs.rpc.reserve-claims",
    "export-runs.rpc.release-claims",
)
LOCKED_TABLES: Final = ("export_runs", "export_run_claims", "export_run_events", "claim_leases", "double_exports")

DRAINED_TIMEOUT_S: Final = 120
REDECLARED_TIMEOUT_S: Final = 30
EFFECT_TIMEOUT_S: Final = 60
EFFECT_PAUSE_S: Final = 0.05


class Faults:
    """Breaks a world. `longest_s` bounds how long a fault lasts; `random` draws that, and what it hits."""

    def __init__(self, world: World, ledger: Ledger, random: Random, client: Client, longest_s: float) -> None:
        self._world = world
        self._ledger = ledger
        self._random = random
        self._client = client
        self._longest_s = longest_s

    async def inject(self, kind: str) -> float:
        """Break one thing; returns when it could be used again."""
        return await self.kinds[kind](self) or time.monotonic()

    async def _wait(self) -> None:
        await asyncio.sleep(self._longest_s * self._random.uniform(0.1, 1.0))

    def _some_worker(self) -> Worker:
        return self._random.choice(self._world.workers)

    async def _worker_killed(self) -> None:
        await self._kill(self._some_worker())

    async def _all_workers_killed(self) -> None:
        await asyncio.gather(*map(self._kill, self._world.workers))

    async def _kill(self, worker: Worker) -> None:
        async with worker.lock:
            await worker.kill()
            worker.start()

    async def _worker_terminated(self) -> None:
        worker = self._some_worker()
        async with worker.lock:
            await terminate(worker, self._ledger)
            worker.start()

    async def _worker_stopped(self) -> None:
        worker = self._some_worker()
        async with worker.lock:
            worker.send(signal.SIGSTOP)
            await self._wait()
            worker.send(signal.SIGCONT)

    async def _broker_killed(self) -> None:
        async with self._world.broker_lock:
            await asyncio.to_thread(self._world.broker.kill)
            await asyncio.to_thread(self._world.broker.start)

    async def _broker_restarted(self) -> None:
        async with self._world.broker_lock:
            await asyncio.to_thread(self._world.broker.stop)
            await asyncio.to_thread(self._world.broker.start)

    async def _broker_closes_connections(self) -> None:
        async with self._world.broker_lock:
            await self._world.rabbitmqctl("close_all_connections", "chaos")

    async def _request_queue_deleted(self) -> None:
        queue = self._random.choice(REQUEST_QUEUES)
        await _until_done(lambda: self._client.delete(queue))

    async def _event_queue_deleted(self) -> float:
        """Deleting a queue loses what is in it, so it is deleted when nothing is, under its consumers."""
        queue = self._random.choice(EVENT_QUEUES)
        async with self._world.gate.shut():
            await self._until_drained(queue)
            await _until_done(lambda: self._client.delete(queue))
            deleted = time.monotonic()
            # Until it is there again, and bound, whatever is published is unroutable.
            async with asyncio.timeout(REDECLARED_TIMEOUT_S):
                while not await self._client.consumers(queue):
                    await asyncio.sleep(EFFECT_PAUSE_S)
        return deleted

    async def _until_drained(self, queue: str) -> None:
        """Wait until a queue holds nothing, what its consumers have in hand included."""
        async with asyncio.timeout(DRAINED_TIMEOUT_S):
            while True:
                listed = await self._world.rabbitmqctl("list_queues", "name", "messages")
                if any(line.split() == [queue, "0"] for line in listed.splitlines()):
                    return

    async def _database_killed(self) -> None:
        async with self._world.database_lock:
            await asyncio.to_thread(self._world.database.kill)
            await self._wait()
            await asyncio.to_thread(self._world.database.start)

    async def _database_restarted(self) -> None:
        async with self._world.database_lock:
            await asyncio.to_thread(self._world.database.stop)
            await asyncio.to_thread(self._world.database.start)

    async def _backends_terminated(self) -> None:
        await _until_done(
            lambda: self._execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        )

    async def _tables_locked(self) -> None:
        table = self._random.choice(LOCKED_TABLES)

        async def lock() -> bool:
            locked = False
            with suppress(*DATABASE_ERRORS):
                async with self._world.admin() as connection, connection.transaction():
                    await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                    locked = True
                    await self._wait()
            return locked

        await _until_done(lock)

    async def _read_only(self) -> None:
        await _until_done(lambda: self._set_read_only("on"))
        await self._wait()
        await _until_done(lambda: self._set_read_only("off"))

    async def _set_read_only(self, value: str) -> bool:
        return await self._execute(
            f"ALTER SYSTEM SET default_transaction_read_only = {value}", "SELECT pg_reload_conf()"
        )

    async def _execute(self, *statements: str) -> bool:
        """Whether the database could be told."""
        with suppress(*DATABASE_ERRORS):
            async with self._world.admin() as connection:
                for statement in statements:
                    await connection.execute(statement)
                return True
        return False

    async def _broker_cut(self) -> None:
        async with self._world.broker_wire.cut():
            await self._wait()

    async def _broker_frozen(self) -> None:
        async with self._world.broker_wire.frozen():
            await self._wait()

    async def _broker_slow(self) -> None:
        async with self._world.broker_wire.slow(self._random.uniform(0.02, 0.3)):
            await self._wait()

    async def _database_cut(self) -> None:
        async with self._world.database_wire.cut():
            await self._wait()

    async def _database_frozen(self) -> None:
        async with self._world.database_wire.frozen():
            await self._wait()

    async def _database_slow(self) -> None:
        async with self._world.database_wire.slow(self._random.uniform(0.02, 0.3)):
            await self._wait()

    kinds: ClassVar[Mapping[str, Callable[["Faults"], Awaitable[float | None]]]] = {
        "worker killed": _worker_killed,
        "all workers killed": _all_workers_killed,
        "worker terminated": _worker_terminated,
        "worker stopped and continued": _worker_stopped,
        "broker killed": _broker_killed,
        "broker restarted": _broker_restarted,
        "broker closes all connections": _broker_closes_connections,
        "request queue deleted": _request_queue_deleted,
        "event queue deleted": _event_queue_deleted,
        "database killed": _database_killed,
        "database restarted": _database_restarted,
        "database connections terminated": _backends_terminated,
        "tables locked": _tables_locked,
        "database read-only": _read_only,
        "broker wire cut": _broker_cut,
        "broker wire frozen": _broker_frozen,
        "broker wire slow": _broker_slow,
        "database wire cut": _database_cut,
        "database wire frozen": _database_frozen,
        "database wire slow": _database_slow,
    }


async def terminate(worker: Worker, ledger: Ledger) -> None:
    """SIGTERM, and note how it ended."""
    age_s = worker.age_s
    code = await worker.terminate()
    ledger.note("exit", worker=worker.number, code=code, age=age_s)


async def _until_done(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Try until it is done. Raises TimeoutError."""
    async with asyncio.timeout(EFFECT_TIMEOUT_S):
        while not await attempt():
            await asyncio.sleep(EFFECT_PAUSE_S)


ALONE: Final = "event queue deleted"
"""It waits until nothing is under way, which beside another fault may take for ever."""

SLOW: Final = {ALONE, "broker killed", "broker restarted", "broker closes all connections"}


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault to come: its kind, when it begins as a share of the longest fault, and what all else is drawn from."""

    kind: str
    delay_share: float
    seed: str


def schedule(seed: int, faults: int, pair_share: float, *, quick: bool) -> list[list[Planned]]:
    """So many faults, each kind as often as every other, some of them in pairs of different kinds.

    With `quick`, the slow kinds come only once. A seed gives one schedule, whatever the faults draw when they come.
    """
    random = Random(f"{seed}/schedule")
    kinds = list(Faults.kinds)
    deck: list[str] = random.sample(kinds, len(kinds))
    groups: list[list[Planned]] = []
    while faults > 0:
        if len(deck) < 2:
            again = [kind for kind in kinds if not (quick and kind in SLOW)]
            deck += random.sample(again, len(again))
        group = [deck.pop(0)]
        in_pair = faults > 1 and random.random() < pair_share
        if in_pair and ALONE not in (group[0], deck[0]) and deck[0] != group[0]:
            group.append(deck.pop(0))
        faults -= len(group)
        delays = [0.0, random.uniform(0, 0.5)]
        groups.append(
            [
                Planned(kind, delay, f"{seed}/fault {len(groups) + 1}/{kind}")
                for kind, delay in zip(group, delays, strict=False)
            ]
        )
    return groups
