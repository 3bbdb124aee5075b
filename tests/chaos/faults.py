"""The faults. Each breaks something, waits a while, undoes it, and returns.

If another fault is on, a fault may not be possible at once. It is then tried until it is.
"""

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Final

import asyncpg

from tests.chaos.bad_requests import LARGE_EVENT_CLAIMS, LARGE_ORG, LARGE_RUN_EVENTS, BadRequests, large_run
from tests.chaos.client import ERRORS, Client
from tests.chaos.events import ORGANISATIONS, EventStream, OutgoingMessage
from tests.chaos.exporters import Counts, Publisher
from tests.chaos.ledger import Ledger
from tests.chaos.standby import queued_events
from tests.chaos.system import SLOW_ORG, SystemUnderTest, Worker

DATABASE_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
EVENT_QUEUES: Final = ("export-runs.run-created", "export-runs.run-finished")
PARKED_QUEUES: Final = tuple(f"{queue}.parked" for queue in EVENT_QUEUES)
REQUEST_QUEUES: Final = (
    "export-runs.rpc.check-claims",
    "export-runs.rpc.get-export-run-by-id",
    "export-runs.rpc.reserve-claims",
    "export-runs.rpc.release-claims",
    "export-runs.rpc.reverse-export",
)
LOCKED_TABLES: Final = (
    "export_runs",
    "export_run_claims",
    "export_run_events",
    "claim_leases",
    "double_exported_claims",
)

DRAINED_TIMEOUT_S: Final = 120
COUNT_MESSAGES: Final = (
    "{ok, {_, N}, _} = ra:leader_query({'%%2F_%s', node()}, fun rabbit_fifo:query_messages_total/1), N."
)
"""How many messages a quorum queue has, with those that consumers hold. What `list_queues` says is some seconds old."""

REDECLARED_TIMEOUT_S: Final = 30
EFFECT_TIMEOUT_S: Final = 60
EFFECT_PAUSE_S: Final = 0.05

BAD_REQUEST_PAUSE_S: Final = 0.05
SLOW_EVENTS: Final = 5
SLOW_EVENT_S_MAX: Final = 3.0
"""Longer than a batch may take, shorter than a parked event may (see SHORT_TIMEOUTS)."""

LARGE_EVENT_CLAIMS_MAX: Final = 50_000
CANCEL_PAUSE_S: Final = 0.5
STANDBY_AWAY_S_MIN: Final = 4 * CANCEL_PAUSE_S
"""Long enough for a commit that is cancelled, and for another try."""

ROW_LOCKED_S_MIN: Final = 7.0
"""Longer than others may wait. Or nobody would notice that they wait until the lock is gone."""

HAND_OVER_S: Final = 20.0
"""When a worker has been without its database for so long, the other workers do all the work."""

CLAIMS_OF_LARGE_RUN: Final = LARGE_RUN_EVENTS * LARGE_EVENT_CLAIMS
LOW_WATERMARK, NORMAL_WATERMARK = "0.000001", "0.4"


@dataclass(frozen=True, slots=True)
class Clients:
    """What faults that send something send it with."""

    admin: Client
    publisher: Publisher
    bad_requests: BadRequests
    counts: Counts


class Faults:
    """Breaks a system. A fault lasts at most `longest_s`, or longer if it must. Its duration and its target come from
    `stream.random`, its events from `stream`.
    """

    def __init__(
        self, system: SystemUnderTest, ledger: Ledger, stream: EventStream, clients: Clients, longest_s: float
    ) -> None:
        self._system = system
        self._ledger = ledger
        self._stream = stream
        self._random = stream.random
        self._clients = clients
        self._client = clients.admin
        self._longest_s = longest_s

    async def inject(self, kind: str) -> float:
        """Make one fault. Returns the time at which it was undone."""
        return await self.kinds[kind](self) or time.monotonic()

    async def _wait(self) -> None:
        await asyncio.sleep(self._longest_s * self._random.uniform(0.1, 1.0))

    def _some_worker(self) -> Worker:
        return self._random.choice(self._system.workers)

    async def _worker_killed(self) -> None:
        await self._kill(self._some_worker())

    async def _part_killed(self) -> None:
        worker = self._some_worker()
        async with worker.lock, asyncio.timeout(EFFECT_TIMEOUT_S):
            while not worker.kill_part(self._random):
                await asyncio.sleep(EFFECT_PAUSE_S)

    async def _all_workers_killed(self) -> None:
        await asyncio.gather(*map(self._kill, self._system.workers))

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
        async with self._system.broker_lock:
            await asyncio.to_thread(self._system.broker.kill)
            await asyncio.to_thread(self._system.broker.start)

    async def _broker_restarted(self) -> None:
        async with self._system.broker_lock:
            await asyncio.to_thread(self._system.broker.stop)
            await asyncio.to_thread(self._system.broker.start)

    async def _broker_closes_connections(self) -> None:
        async with self._system.broker_lock:
            await self._system.rabbitmqctl("close_all_connections", "chaos")

    async def _request_queue_deleted(self) -> None:
        queue = self._random.choice(REQUEST_QUEUES)
        await _until_done(lambda: self._client.delete(queue))

    async def _event_queue_deleted(self) -> float:
        """Delete an event queue while workers consume from it. It must be empty, or its events would be lost."""
        queue = self._random.choice(EVENT_QUEUES)
        async with self._system.publish_lock.exclusive():
            await self._until_drained(queue)
            await _until_done(lambda: self._client.delete(queue))
            deletion_t = time.monotonic()
            # Until a worker has declared and bound it again, an event that is published is unroutable.
            async with asyncio.timeout(REDECLARED_TIMEOUT_S):
                while not await self._client.consumers(queue):
                    await asyncio.sleep(EFFECT_PAUSE_S)
        return deletion_t

    async def _until_drained(self, queue: str) -> None:
        """Wait until a queue has no messages, and its consumers hold none of them."""
        async with asyncio.timeout(DRAINED_TIMEOUT_S):
            while True:
                if (await self._system.rabbitmqctl("eval", COUNT_MESSAGES % queue)).strip() == "0":
                    return

    async def _database_killed(self) -> None:
        async with self._system.database_lock:
            await asyncio.to_thread(self._system.database.kill)
            await self._wait()
            await asyncio.to_thread(self._system.database.start)

    async def _database_restarted(self) -> None:
        async with self._system.database_lock:
            await asyncio.to_thread(self._system.database.stop)
            await asyncio.to_thread(self._system.database.start)

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
            is_locked = False
            with suppress(*DATABASE_ERRORS):
                async with self._system.admin() as connection, connection.transaction():
                    await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                    is_locked = True
                    await self._wait()
            return is_locked

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
        """Run statements. Returns whether the database has run them."""
        with suppress(*DATABASE_ERRORS):
            async with self._system.admin() as connection:
                for statement in statements:
                    await connection.execute(statement)
                return True
        return False

    async def _broker_cut(self) -> None:
        async with self._system.broker_wire.cut():
            await self._wait()

    async def _broker_frozen(self) -> None:
        async with self._system.broker_wire.frozen():
            await self._wait()

    async def _broker_slow(self) -> None:
        async with self._system.broker_wire.slow(self._random.uniform(0.02, 0.3)):
            await self._wait()

    async def _broker_memory_alarm(self) -> None:
        async with self._system.broker_lock:
            await self._system.rabbitmqctl("set_vm_memory_high_watermark", LOW_WATERMARK)
            await self._wait()
            await self._system.rabbitmqctl("set_vm_memory_high_watermark", NORMAL_WATERMARK)
            await _until_done(self._no_alarm)

    async def _no_alarm(self) -> bool:
        watermark = await self._system.rabbitmqctl("eval", "vm_memory_monitor:get_vm_memory_high_watermark().")
        if watermark.strip() == NORMAL_WATERMARK:
            return True
        await self._system.rabbitmqctl("set_vm_memory_high_watermark", NORMAL_WATERMARK)
        return False

    async def _database_cut(self) -> None:
        async with AsyncExitStack() as stack:
            for wire in self._system.database_wires:
                await stack.enter_async_context(wire.cut())
            await self._wait()

    async def _database_frozen(self) -> None:
        async with AsyncExitStack() as stack:
            for wire in self._system.database_wires:
                await stack.enter_async_context(wire.frozen())
            await self._wait()

    async def _database_slow(self) -> None:
        delay_s = self._random.uniform(0.02, 0.3)
        async with AsyncExitStack() as stack:
            for wire in self._system.database_wires:
                await stack.enter_async_context(wire.slow(delay_s))
            await self._wait()

    async def _one_worker_without_database(self) -> None:
        """Cut one worker from the database, half of the time for so long that the other must do all the work."""
        wire = self._random.choice(self._system.database_wires)
        async with self._random.choice([wire.cut, wire.frozen])():
            if self._longest_s >= LONG_FAULTS_S and self._random.random() < 0.5:
                await asyncio.sleep(HAND_OVER_S)
            await self._wait()

    async def _row_locked(self) -> None:
        """Lock the row of a run in a session of our own, and publish events of that run."""

        async def lock() -> bool:
            is_locked = False
            with suppress(*DATABASE_ERRORS):
                async with self._system.admin() as connection, connection.transaction():
                    run = await connection.fetchrow(
                        "SELECT run_id::text, org_id FROM export_runs WHERE org_id = ANY($1) AND run_id >= $2"
                        " ORDER BY run_id LIMIT 1 FOR UPDATE",
                        ORGANISATIONS,
                        self._stream.uuid(),
                    )
                    if run is None:
                        return False
                    is_locked = True
                    self._ledger.note("affected", org=run["org_id"])
                    ids = {"runId": run["run_id"], "orgId": run["org_id"]}
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._publish_finished(ids, 2))
                        if self._longest_s >= LONG_FAULTS_S:
                            await asyncio.sleep(ROW_LOCKED_S_MIN)
                        await self._wait()
            return is_locked

        await _until_done(lock)

    async def _publish_finished(self, fields: dict[str, object], events: int) -> None:
        finished = [self._stream.finished(**fields) for _ in range(events)]
        await self._clients.publisher.deliver([self._stream.outgoing(each, "run-finished") for each in finished])

    async def _slow_events(self) -> None:
        """Publish events that take long to store: PostgreSQL sleeps, or one has very many claims."""
        self._ledger.note("affected", org=SLOW_ORG)
        for _ in range(SLOW_EVENTS):
            slow_s = round(self._random.uniform(0.6, SLOW_EVENT_S_MAX), 2)
            await self._publish_finished({"orgId": SLOW_ORG, "sleepS": slow_s}, 1)
        if self._longest_s >= LONG_FAULTS_S and self._random.random() < 0.5:
            claim_ids = [f"many-{number}" for number in range(LARGE_EVENT_CLAIMS_MAX)]
            event = self._stream.finished(orgId=LARGE_ORG, status="failed", claimIds=claim_ids)
            self._ledger.note("affected", org=LARGE_ORG)
            large = OutgoingMessage(event["eventId"], "run-finished", json.dumps(event).encode())
            await self._clients.publisher.deliver([large])
        await self._wait()

    async def _bad_requests(self) -> None:
        """Send requests with forged addresses, and others that no honest client sends."""
        self._ledger.note("affected", org=LARGE_ORG)
        if self._longest_s >= LONG_FAULTS_S and self._system.large_run_id is None:
            run_id, events = large_run(self._stream)
            await self._clients.publisher.deliver(events)
            await _until_done(lambda: self._is_whole(run_id))
            self._system.large_run_id = run_id
        end = time.monotonic() + self._longest_s * self._random.uniform(0.1, 1.0)
        while time.monotonic() < end:
            await self._clients.bad_requests.send(self._random, self._system.large_run_id)
            await asyncio.sleep(BAD_REQUEST_PAUSE_S)

    async def _is_whole(self, run_id: str) -> bool:
        with suppress(*DATABASE_ERRORS):
            async with self._system.admin() as connection:
                count = await connection.fetchval("SELECT claim_count FROM export_runs WHERE run_id = $1", run_id)
                return bool(count == CLAIMS_OF_LARGE_RUN)
        return False

    async def _standby_away(self) -> None:
        """Keep the standby from the primary. At the end, every event that is neither on the standby nor in a queue was
        acknowledged too early: note these.
        """
        standby = self._system.standby
        await standby.leave()
        self._ledger.note("standby away")
        if self._random.random() < 0.5:
            await standby.restart()
        end = time.monotonic() + STANDBY_AWAY_S_MIN + self._longest_s * self._random.uniform(0.1, 1.0)
        while time.monotonic() < end:
            await asyncio.sleep(CANCEL_PAUSE_S)
            # PostgreSQL then says that the transaction is committed, on the primary: as if its client had given up.
            await self._execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        async with AsyncExitStack() as stack:
            for worker in self._system.workers:
                await stack.enter_async_context(worker.lock)
            await stack.enter_async_context(self._system.publish_lock.exclusive())
            for worker in self._system.workers:
                await worker.kill()
                stack.callback(worker.start)
            try:
                await _until_done(self._note_missing)
            finally:
                self._ledger.note("standby back")
                await standby.join()

    async def _note_missing(self) -> bool:
        queues = (*PARKED_QUEUES, *EVENT_QUEUES)  # in the order in which events move
        if any([await self._client.consumers(queue) for queue in queues]):
            return False
        with suppress(*ERRORS):
            queued = await queued_events(self._system.broker.url, queues)
            missing = self._clients.counts.confirmed - queued - await self._system.standby.logged_events()
            self._ledger.note("unreplicated", keys=sorted(missing), queued=len(queued))
            return True
        return False

    kinds: ClassVar[Mapping[str, Callable[["Faults"], Awaitable[float | None]]]] = {
        "worker killed": _worker_killed,
        "part of a worker killed": _part_killed,
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
        "broker memory alarm": _broker_memory_alarm,
        "one worker without its database": _one_worker_without_database,
        "a run's row locked": _row_locked,
        "slow events": _slow_events,
        "bad requests": _bad_requests,
        "standby away": _standby_away,
    }


async def terminate(worker: Worker, ledger: Ledger) -> None:
    """Send SIGTERM to a worker, and write its exit code to the ledger."""
    age_s = worker.age_s
    code = await worker.terminate()
    ledger.note("exit", worker=worker.number, code=code, age=age_s)


async def _until_done(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Repeat `attempt` until it returns True. Raises TimeoutError after EFFECT_TIMEOUT_S."""
    async with asyncio.timeout(EFFECT_TIMEOUT_S):
        while not await attempt():
            await asyncio.sleep(EFFECT_PAUSE_S)


LONG_FAULTS_S: Final = 5.0
"""With longer faults than this, a campaign has time for the faults that take longest."""

ALONE: Final = "event queue deleted"
"""This fault waits until a queue is empty, which may never happen while another fault is on."""

SLOW: Final = {
    ALONE,
    "broker killed",
    "broker restarted",
    "broker closes all connections",
    "broker memory alarm",
    "standby away",
}


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault in the schedule.

    It begins after `delay_share` of the longest fault. All random choices of the fault come from `seed`.
    """

    kind: str
    delay_share: float
    seed: str


def schedule(
    seed: int, faults: int, pair_share: float, *, quick: bool, only: Sequence[str] = ()
) -> list[list[PlannedFault]]:
    """A schedule of this many faults. Each kind comes equally often, and some come in pairs of different kinds.

    With `quick`, the slow kinds come only once. With `only`, there are no other kinds than these. The schedule depends
    only on the arguments.
    """
    random = Random(f"{seed}/schedule")
    kinds = list(only or Faults.kinds)
    deck: list[str] = random.sample(kinds, len(kinds))
    groups: list[list[PlannedFault]] = []
    while faults > 0:
        while len(deck) < 2:
            repeatable = [kind for kind in kinds if not (quick and kind in SLOW)] or kinds
            deck += random.sample(repeatable, len(repeatable))
        group = [deck.pop(0)]
        in_pair = faults > 1 and random.random() < pair_share
        if in_pair and ALONE not in (group[0], deck[0]) and deck[0] != group[0]:
            group.append(deck.pop(0))
        faults -= len(group)
        delays = [0.0, random.uniform(0, 0.5)]
        groups.append(
            [
                PlannedFault(kind, delay, f"{seed}/fault {len(groups) + 1}/{kind}")
                for kind, delay in zip(group, delays, strict=False)
            ]
        )
    return groups
