"""The campaign: exporters and guards use the service, one fault after the other is made, and the checker judges it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

from tests.chaos import checker
from tests.chaos.bad_requests import BadRequests
from tests.chaos.client import Client
from tests.chaos.cluster_faults import NETWORK_CUT, ClusterFaults, kinds_with_a_cluster
from tests.chaos.events import Claims, EventStream
from tests.chaos.exporters import Counts, PoisonPublisher, Publisher, export
from tests.chaos.faults import (
    COUNT_MESSAGES,
    EVENT_QUEUES,
    PARKED_QUEUES,
    REQUEST_QUEUES,
    Clients,
    Faults,
    PlannedFault,
    schedule,
    terminate,
)
from tests.chaos.frames import read_malformed_properties
from tests.chaos.guard import Guard, Json
from tests.chaos.ledger import Ledger
from tests.chaos.reservers import reserve
from tests.chaos.reversers import Exports, reverse
from tests.chaos.system import (
    WORKERS,
    SystemUnderTest,
    differences_from_log,
    rebuild_failures,
    system_under_test,
)
from tests.chaos.verdict import Verdict

FIRST_ANSWER_TIMEOUT_S: Final = 60
RECOVERY_TIMEOUT_S: Final = 60
DRAIN_TIMEOUT_S: Final = 180
STOP_TIMEOUT_S: Final = 60
PROBE_DEADLINE_S: Final = 1.0
PROBE_TTL_S: Final = 60
PROBE_PAUSE_S: Final = 0.05
SHARES_PAUSE_S: Final = 0.5

LONG_CALM_S: Final = 8.0
"""Long enough for things that must not happen in calm to show. The last calm is so long, and one in LONG_CALM_EVERY."""

LONG_CALM_EVERY: Final = 25

MEMORY_GROWTH_MAX: Final = 1.3
MEMORY_JUDGED_FROM_S: Final = 600
"""In the first tenth of a shorter campaign the workers have just started, and need less memory."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a campaign. It ends after `faults` faults, or after `duration_s`, whichever comes first."""

    seed: int
    directory: Path
    faults: int = 30
    duration_s: float | None = None
    rate: float = 200
    exporters: int = 4
    guards: int = 4
    poisoners: int = 3
    reservers: int = 4
    reversers: int = 2
    malformed_frames: bool = True
    longest_fault_s: float = 8.0
    calm_s: float = 0.5
    pair_share: float = 0.3
    recovery_max_s: float = 10.0
    wait_max_s: float = 5.0
    """How long events of an organisation that no fault is about may wait to be stored."""

    has_pgbouncer: bool = False
    is_cluster: bool = False
    """Whether the broker has three nodes, and workers know the standby."""

    quick: bool = False
    """Make the faults that take longest only once each."""

    only: Sequence[str] = ()
    """The kinds of faults, if not all."""

    plant: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a campaign did, and the verdict of the checker."""

    duration_s: float
    events: int
    duplicates_and_retries: int
    poison: int
    guard: str
    worker_memory: "Memory"
    bugs_logged: list[str]
    unexpected_ends: int
    verdict: Verdict

    @property
    def failures(self) -> list[str]:
        """All violations."""
        ends = [f"{self.unexpected_ends} times a worker ended by itself"] * (self.unexpected_ends > 0)
        growth = [f"workers grew: {self.worker_memory}"] * self.worker_memory.grew(self.duration_s)
        return [*self.verdict.failures, *(f"logged: {line}" for line in self.bugs_logged), *ends, *growth]


@dataclass(frozen=True, slots=True)
class Memory:
    """The workers' memory in bytes: the medians of the first and the last tenth of a campaign, and the maximum."""

    first: float
    last: float
    most: int

    @classmethod
    def of(cls, measurements: list[list[int]]) -> "Memory":
        """Summarise the measurements of each worker, which were taken at even intervals."""
        first = [bytes_ for worker in measurements for bytes_ in worker[: len(worker) // 10 + 1]]
        last = [bytes_ for worker in measurements for bytes_ in worker[-(len(worker) // 10 + 1) :]]
        return cls(median(first), median(last), max(map(max, measurements)))

    def grew(self, duration_s: float) -> bool:
        """Whether the memory grew too much, in a campaign that was long enough to judge that."""
        return duration_s >= MEMORY_JUDGED_FROM_S and self.last > MEMORY_GROWTH_MAX * self.first

    def __str__(self) -> str:
        values = {"median of the first tenth": self.first, "of the last": self.last, "most": self.most}
        return ", ".join(f"{name} {bytes_ / 2**20:.0f} MiB" for name, bytes_ in values.items())


async def run(options: Options) -> Report:
    """Run a campaign and check it."""
    start = time.monotonic()
    ledger = Ledger(options.directory / "ledger.jsonl")
    async with AsyncExitStack() as stack:
        stack.callback(ledger.close)
        read_malformed_properties()
        system = await stack.enter_async_context(
            system_under_test(
                options.directory,
                options.plant,
                has_pgbouncer=options.has_pgbouncer,
                is_cluster=options.is_cluster,
                needs_network=NETWORK_CUT in options.only,
            )
        )
        campaign = Campaign(options, system, ledger, stack)
        await campaign.until_answered()
        await campaign.break_things()
        waiting_clients = await campaign.finish()
        is_drained = await campaign.drain()
        await ledger.sync()
        system.keep_log(system.database)
        verdict = await checker.check(
            ledger.path,
            database_url=system.database.url,
            database_log=system.retired_log,
            amqp_url=system.broker.url,
            recovery_max_s=options.recovery_max_s,
            wait_max_s=options.wait_max_s,
        )
        differences = await differences_from_log(system.database.url)
        verdict.failures += [f"the tables are not what the log says: {line}" for line in differences]
        verdict.failures += [f"no rebuild: {line}" for line in await rebuild_failures(system.database.url)]
        differences = await differences_from_log(system.database.url)
        verdict.failures += [f"after a rebuild the tables are not what the log says: {line}" for line in differences]
        if not is_drained:
            verdict.failures.append(f"the queues were not empty {DRAIN_TIMEOUT_S} s after the last fault")
        if waiting_clients:
            verdict.failures.append(f"{waiting_clients} clients still waited {STOP_TIMEOUT_S} s after the last fault")
        counts = campaign.counts
        return Report(
            duration_s=time.monotonic() - start,
            events=counts.events,
            duplicates_and_retries=counts.attempts - counts.events - counts.poison,
            poison=counts.poison,
            guard=str(campaign.guard.counts),
            worker_memory=Memory.of([worker.resident_bytes for worker in system.workers]),
            bugs_logged=_bugs_logged([worker.log for worker in system.workers]),
            unexpected_ends=system.unexpected_ends,
            verdict=verdict,
        )


class Campaign:
    """The tasks that publish events and send requests, and the faults."""

    def __init__(self, options: Options, system: SystemUnderTest, ledger: Ledger, stack: AsyncExitStack) -> None:
        self._options = options
        self._system = system
        self._ledger = ledger
        self._stopping = asyncio.Event()
        self._claims = Claims()
        self._exports = Exports()
        self.counts = Counts()
        self._watchers = [
            asyncio.create_task(watch) for watch in (system.keep_workers_up(), self._note_shares_of_workers())
        ]
        for watcher in self._watchers:
            stack.callback(watcher.cancel)
        self._stack = stack
        self.guard = Guard(self._client(replies=True), ledger, self._random("guard"))
        self._probe_guard = Guard(self._client(replies=True), ledger, self._random("probe guard"))
        self._probe_publisher = self._publisher("probe")
        self._probe_stream = EventStream(self._random("probe stream"), self._claims)
        bad_requests = BadRequests(system.amqp_url, ledger)
        stack.push_async_callback(bad_requests.close)
        self._clients = Clients(self._client(), self._publisher("faults"), bad_requests, self.counts)
        self._admin = self._clients.admin
        self._streams = [
            EventStream(self._random(f"exporter {number}"), self._claims) for number in range(options.exporters)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def until_answered(self) -> None:
        """Wait until the workers serve, then start all tasks."""
        async with asyncio.timeout(FIRST_ANSWER_TIMEOUT_S):
            await self._serving()
        options = self._options
        work = [
            *(
                export(
                    self._publisher(f"publisher {n}"),
                    stream,
                    options.rate / options.exporters,
                    self._stopping,
                    self._exports.note,
                )
                for n, stream in enumerate(self._streams)
            ),
            *(
                PoisonPublisher(
                    self._publisher(f"poison publisher {number}"),
                    self.guard,
                    EventStream(self._random(f"poison {number}"), self._claims),
                    malformed_frames=options.malformed_frames,
                ).run(0.5, self._stopping)
                for number in range(options.poisoners)
            ),
            *(
                reserve(
                    self.guard,
                    self._publisher(f"reserver publisher {number}"),
                    EventStream(self._random(f"reserver {number}"), self._claims),
                    self._claims,
                    self._exports,
                    self._stopping,
                )
                for number in range(options.reservers)
            ),
            *(
                reverse(
                    self.guard,
                    self._publisher(f"reverser publisher {number}"),
                    EventStream(self._random(f"reverser {number}"), self._claims),
                    self._exports,
                    self._stopping,
                )
                for number in range(options.reversers)
            ),
            *(
                self.guard.watch(
                    self._claims,
                    lambda: [run for stream in self._streams for run in stream.recent_runs],
                    0.1,
                    self._stopping,
                )
                for _ in range(options.guards)
            ),
        ]
        self._tasks = [asyncio.create_task(each) for each in work]

    async def break_things(self) -> None:
        """Make one fault, or two at the same time, and wait for calm. Repeat this until the campaign is over."""
        options = self._options
        calm = self._random("calm")
        end = time.monotonic() + (options.duration_s or float("inf"))
        only = options.only
        if options.is_cluster and not only:
            only = kinds_with_a_cluster(has_network=self._system.network is not None)
        groups = schedule(options.seed, options.faults, options.pair_share, quick=options.quick, only=only)
        for number, group in enumerate(groups, start=1):
            if time.monotonic() > end:
                break
            for task in self._tasks:
                if task.done():
                    task.result()
            self._ledger.note("fault", kinds=[fault.kind for fault in group])
            back = await asyncio.gather(*map(self._inject, group))
            self._ledger.note("back", at=max(back))
            with suppress(TimeoutError):
                async with asyncio.timeout(RECOVERY_TIMEOUT_S):
                    await self._serving()
                    self._ledger.note("recovered")
                    await self._all_workers_serving()
                    self._ledger.note("calm")
            await asyncio.sleep(options.calm_s * calm.uniform(0.2, 1.8) if number % LONG_CALM_EVERY else LONG_CALM_S)
        await asyncio.sleep(LONG_CALM_S)

    async def finish(self) -> int:
        """Let all tasks finish. Returns how many of them still wait for something after STOP_TIMEOUT_S."""
        self._stopping.set()
        ended_tasks, other_tasks = await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT_S)
        for task in ended_tasks:
            task.result()
        for task in other_tasks:
            task.cancel()
        if other_tasks:
            await asyncio.wait(other_tasks, timeout=STOP_TIMEOUT_S)  # aiormq can swallow a cancellation
        return len(other_tasks)

    async def drain(self) -> bool:
        """Wait until the event queues are empty, and stop the workers. Returns False after DRAIN_TIMEOUT_S."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while True:
                    while any([await self._admin.count(queue) != 0 for queue in (*EVENT_QUEUES, *PARKED_QUEUES)]):
                        await asyncio.sleep(0.1)
                    while await self._alerts_wait():
                        await asyncio.sleep(0.1)
                    # On SIGTERM a worker finishes or gives back the events that it holds.
                    for worker in self._system.workers:
                        async with worker.lock:
                            await terminate(worker, self._ledger)
                    if not await self._events_wait() and not await self._alerts_wait():
                        return True
                    for worker in self._system.workers:
                        worker.start()
        except TimeoutError:
            return False

    async def _events_wait(self) -> bool:
        """Whether the queues hold any event, while no worker runs. RabbitMQ tells a client 0 when a queue is slow to
        answer, so its leader is asked itself, and no answer counts as yes. In the order in which events move.
        """
        for queue in (*PARKED_QUEUES, *EVENT_QUEUES):
            if (await self._system.rabbitmqctl("eval", COUNT_MESSAGES % queue)).strip() != "0":
                return True
        return False

    async def _alerts_wait(self) -> bool:
        """Whether some alerts are not published yet."""
        async with self._system.admin() as connection:
            wait: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM alerts)")
            return wait

    async def _inject(self, fault: PlannedFault) -> float:
        longest_s = self._options.longest_fault_s
        await asyncio.sleep(fault.delay_share * longest_s)
        try:
            stream = EventStream(Random(fault.seed), self._claims)
            if fault.kind in ClusterFaults.kinds:
                return await ClusterFaults(self._system, stream.random).inject(fault.kind)
            faults = Faults(self._system, self._ledger, stream, self._clients, longest_s)
            return await faults.inject(fault.kind)
        except TimeoutError:
            self._ledger.note("stuck", kind=fault.kind)
            return time.monotonic()

    async def _note_shares_of_workers(self) -> None:
        """Note again and again how much each worker has sent to the database so far, in bytes."""
        while True:
            self._ledger.note("shares", sent=self._system.sent_bytes)
            await asyncio.sleep(SHARES_PAUSE_S)

    async def _serving(self) -> None:
        """Wait until a new run is visible, and every operation is answered."""
        stream = self._probe_stream
        created = stream.created()
        run = {name: created[name] for name in ("runId", "orgId")}
        finished = stream.finished(**run, status="completed", claimIds=[f"probe-{stream.uuid()}"])
        checked = {"orgId": run["orgId"], "claimIds": finished["claimIds"]}
        reserved = {"orgId": run["orgId"], "runId": stream.uuid(), "claimIds": [f"probe-{stream.uuid()}"]}
        await self._until_answered("check-claims", checked)  # after the first reply, the queues are there
        await self._probe_publisher.deliver(
            [stream.outgoing(created, "run-created"), stream.outgoing(finished, "run-finished")]
        )
        await self._until_answered("check-claims", checked, lambda result: bool(result["exported"]))
        await self._until_answered(
            "get-export-run-by-id", {"runId": run["runId"]}, lambda result: result["triggeredBy"] is not None
        )
        lease = {"ttlSeconds": PROBE_TTL_S, "mode": "all-or-nothing", "takeExpired": False}
        await self._until_answered("reserve-claims", {**reserved, **lease})
        await self._until_answered("release-claims", {name: reserved[name] for name in ("orgId", "runId")})

    async def _until_answered(
        self, operation: str, request: Json, enough: Callable[[Json], bool] = lambda result: True
    ) -> None:
        while True:
            _, reply = await self._probe_guard.ask(operation, request, deadline_s=PROBE_DEADLINE_S)
            if reply and reply["ok"] and enough(reply["result"]):
                return
            await asyncio.sleep(PROBE_PAUSE_S)

    async def _all_workers_serving(self) -> None:
        """Wait until every queue has one consumer per worker, and none of a dead connection.

        A quorum queue counts those of a node that is down, until it is back.
        """
        for queue in (*EVENT_QUEUES, *REQUEST_QUEUES):
            while (count := await self._admin.consumers(queue)) != WORKERS:
                if self._options.is_cluster and count > WORKERS:
                    break
                await asyncio.sleep(PROBE_PAUSE_S)

    def _random(self, name: str) -> Random:
        return Random(f"{self._options.seed}/{name}")

    def _client(self, *, replies: bool = False) -> Client:
        client = Client(
            self._system.amqp_url,
            replies=replies,
            on_unexpected=lambda ident: self._ledger.note("unexpected-reply", id=ident),
        )
        self._stack.push_async_callback(client.close)
        return client

    def _publisher(self, name: str) -> Publisher:
        return Publisher(self._client(), self._ledger, self._system.publish_lock, self._random(name), self.counts)


KILLED: Final = '"exit_code": -9'


def _bugs_logged(logs: list[Path]) -> list[str]:
    """The log lines that only a bug explains."""
    signs = ('"event_failed"', '"request_failed"', '"event_unstorable"', "Traceback")
    bugs: list[str] = []
    for log in logs:
        with log.open(encoding="utf-8", errors="replace") as lines:
            bugs += [
                line.strip()[:500]
                for line in lines
                if any(sign in line for sign in signs) or ('"part_ended"' in line and KILLED not in line)
            ]
    return bugs
