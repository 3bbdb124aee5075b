"""The campaign: everything up, exporters and the guard at work, fault after fault, and the verdict."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

from tests.chaos import checker
from tests.chaos.checker import Verdict
from tests.chaos.client import Client
from tests.chaos.events import Claims, Story
from tests.chaos.exporters import Counts, Poisoner, Publisher, export
from tests.chaos.faults import EVENT_QUEUES, REQUEST_QUEUES, Faults, Planned, schedule, terminate
from tests.chaos.guard import Guard, Json
from tests.chaos.ledger import Ledger
from tests.chaos.reservers import reserve
from tests.chaos.world import WORKERS, World, world

FIRST_ANSWER_TIMEOUT_S: Final = 60
RECOVERY_TIMEOUT_S: Final = 60
DRAIN_TIMEOUT_S: Final = 180
STOP_TIMEOUT_S: Final = 60
PROBE_DEADLINE_S: Final = 1.0
PROBE_TTL_S: Final = 60
PROBE_PAUSE_S: Final = 0.05

LONG_CALM_S: Final = 8.0
"""Long enough to show what must not happen in calm. So long is the last one, and one in LONG_CALM_EVERY."""

LONG_CALM_EVERY: Final = 25

MEMORY_GROWTH_MAX: Final = 1.3
MEMORY_JUDGED_FROM_S: Final = 600
"""A shorter campaign has workers that start in its first tenth: they take little yet."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a campaign. It ends after `faults`, or after `duration_s`, whatever comes first."""

    seed: int
    directory: Path
    faults: int = 30
    duration_s: float | None = None
    rate: float = 200
    exporters: int = 4
    guards: int = 4
    poisoners: int = 3
    reservers: int = 4
    malformed_frames: bool = True
    longest_fault_s: float = 8.0
    calm_s: float = 0.5
    pair_share: float = 0.3
    recovery_max_s: float = 10.0
    quick: bool = False
    """Inject the faults that take longest only once each."""

    plant: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a campaign did, and what the checker says."""

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
        """Every violation; none is what is hoped for."""
        ends = [f"{self.unexpected_ends} times a worker ended by itself"] * (self.unexpected_ends > 0)
        growth = [f"workers grew: {self.worker_memory}"] * self.worker_memory.grew(self.duration_s)
        return [*self.verdict.failures, *(f"logged: {line}" for line in self.bugs_logged), *ends, *growth]


@dataclass(frozen=True, slots=True)
class Memory:
    """How much workers took, in bytes: the medians of the first and of the last tenth of a campaign, and the most."""

    first: float
    last: float
    most: int

    @classmethod
    def of(cls, measured: list[list[int]]) -> "Memory":
        """What was measured of each worker, at even intervals."""
        first = [bytes_ for worker in measured for bytes_ in worker[: len(worker) // 10 + 1]]
        last = [bytes_ for worker in measured for bytes_ in worker[-(len(worker) // 10 + 1) :]]
        return cls(median(first), median(last), max(map(max, measured)))

    def grew(self, duration_s: float) -> bool:
        """Whether they took more and more, in a campaign long enough to tell."""
        return duration_s >= MEMORY_JUDGED_FROM_S and self.last > MEMORY_GROWTH_MAX * self.first

    def __str__(self) -> str:
        values = {"median of the first tenth": self.first, "of the last": self.last, "most": self.most}
        return ", ".join(f"{name} {bytes_ / 2**20:.0f} MiB" for name, bytes_ in values.items())


async def run(options: Options) -> Report:
    """Run a campaign and check what it left."""
    started = time.monotonic()
    ledger = Ledger(options.directory / "ledger.jsonl")
    async with AsyncExitStack() as stack:
        stack.callback(ledger.close)
        everything = await stack.enter_async_context(world(options.directory, options.plant))
        campaign = Campaign(options, everything, ledger, stack)
        await campaign.until_answered()
        await campaign.break_things()
        unfinished = await campaign.finish()
        drained = await campaign.drain()
        await ledger.sync()
        verdict = await checker.check(
            ledger.path,
            database_url=everything.database.url,
            database_log=everything.database.log,
            amqp_url=everything.broker.url,
            recovery_max_s=options.recovery_max_s,
        )
        if not drained:
            verdict.failures.append(f"the queues were not empty {DRAIN_TIMEOUT_S} s after the last fault")
        if unfinished:
            verdict.failures.append(f"{unfinished} clients still waited {STOP_TIMEOUT_S} s after the last fault")
        counts = campaign.counts
        return Report(
            duration_s=time.monotonic() - started,
            events=counts.events,
            duplicates_and_retries=counts.attempts - counts.events - counts.poison,
            poison=counts.poison,
            guard=str(campaign.guard.counts),
            worker_memory=Memory.of([worker.resident_bytes for worker in everything.workers]),
            bugs_logged=_bugs_logged([worker.log for worker in everything.workers]),
            unexpected_ends=everything.unexpected_ends,
            verdict=verdict,
        )


class Campaign:
    """Those who publish, those who ask, and the one who breaks things."""

    def __init__(self, options: Options, everything: World, ledger: Ledger, stack: AsyncExitStack) -> None:
        self._options = options
        self._world = everything
        self._ledger = ledger
        self._stopping = asyncio.Event()
        self._claims = Claims()
        self.counts = Counts()
        self._keeper = asyncio.create_task(everything.keep_workers_up())
        stack.callback(self._keeper.cancel)
        self._stack = stack
        self.guard = Guard(self._client(replies=True), ledger, self._random("guard"))
        self._probe_guard = Guard(self._client(replies=True), ledger, self._random("probe guard"))
        self._probe_publisher = self._publisher("probe")
        self._probe_story = Story(self._random("probe story"), self._claims)
        self._admin = self._client()
        self._stories = [Story(self._random(f"exporter {number}"), self._claims) for number in range(options.exporters)]
        self._tasks: list[asyncio.Task[None]] = []

    async def until_answered(self) -> None:
        """Wait for the workers to serve, then set everybody to work."""
        async with asyncio.timeout(FIRST_ANSWER_TIMEOUT_S):
            await self._serving()
        options = self._options
        work = [
            *(
                export(self._publisher(f"publisher {n}"), story, options.rate / options.exporters, self._stopping)
                for n, story in enumerate(self._stories)
            ),
            *(
                Poisoner(
                    self._publisher(f"poison publisher {number}"),
                    self.guard,
                    Story(self._random(f"poison {number}"), self._claims),
                    malformed_frames=options.malformed_frames,
                ).run(0.5, self._stopping)
                for number in range(options.poisoners)
            ),
            *(
                reserve(
                    self.guard,
                    self._publisher(f"reserver publisher {number}"),
                    Story(self._random(f"reserver {number}"), self._claims),
                    self._claims,
                    self._stopping,
                )
                for number in range(options.reservers)
            ),
            *(
                self.guard.watch(
                    self._claims,
                    lambda: [run for story in self._stories for run in story.recent_runs],
                    0.1,
                    self._stopping,
                )
                for _ in range(options.guards)
            ),
        ]
        self._tasks = [asyncio.create_task(each) for each in work]

    async def break_things(self) -> None:
        """One fault, or two at a time, then the way back to calm; until there were enough."""
        options = self._options
        calm = self._random("calm")
        end = time.monotonic() + (options.duration_s or float("inf"))
        groups = schedule(options.seed, options.faults, options.pair_share, quick=options.quick)
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
        """Have everybody finish; returns how many could not, because what they wait for never comes."""
        self._stopping.set()
        done, waiting = await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT_S)
        for task in done:
            task.result()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return len(waiting)

    async def drain(self) -> bool:
        """Whether the event queues are emptied in time. The workers end with it."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while True:
                    while any([await self._admin.count(queue) != 0 for queue in EVENT_QUEUES]):
                        await asyncio.sleep(0.1)
                    while await self._alerts_wait():
                        await asyncio.sleep(0.1)
                    # What a worker has in hand it finishes or gives back when it is told to stop.
                    for worker in self._world.workers:
                        async with worker.lock:
                            await terminate(worker, self._ledger)
                    left = any([await self._admin.count(queue) != 0 for queue in EVENT_QUEUES])
                    if not left and not await self._alerts_wait():
                        return True
                    for worker in self._world.workers:
                        worker.start()
        except TimeoutError:
            return False

    async def _alerts_wait(self) -> bool:
        """Whether some are still to be published."""
        async with self._world.admin() as connection:
            wait: bool = await connection.fetchval(
                "SELECT EXISTS (SELECT FROM double_exports WHERE published_at IS NULL)"
            )
            return wait

    async def _inject(self, fault: Planned) -> float:
        longest_s = self._options.longest_fault_s
        await asyncio.sleep(fault.delay_share * longest_s)
        try:
            faults = Faults(self._world, self._ledger, Random(fault.seed), self._admin, longest_s)
            return await faults.inject(fault.kind)
        except TimeoutError:
            self._ledger.note("stuck", kind=fault.kind)
            return time.monotonic()

    async def _serving(self) -> None:
        """Wait until new events get visible, and every operation is answered."""
        story = self._probe_story
        created = story.created()
        run = {name: created[name] for name in ("runId", "orgId")}
        finished = story.finished(**run, status="completed", claimIds=[f"probe-{story.uuid()}"])
        checked = {"orgId": run["orgId"], "claimIds": finished["claimIds"]}
        reserved = {"orgId": run["orgId"], "runId": story.uuid(), "claimIds": [f"probe-{story.uuid()}"]}
        await self._until_told("check-claims", checked)  # the first answer says that the queues are there
        await self._probe_publisher.deliver(
            [story.outgoing(created, "run-created"), story.outgoing(finished, "run-finished")]
        )
        await self._until_told("check-claims", checked, lambda result: bool(result["exported"]))
        await self._until_told(
            "get-export-run-by-id", {"runId": run["runId"]}, lambda told: told["triggeredBy"] is not None
        )
        lease = {"ttlSeconds": PROBE_TTL_S, "mode": "all-or-nothing", "takeExpired": False}
        await self._until_told("reserve-claims", {**reserved, **lease})
        await self._until_told("release-claims", {name: reserved[name] for name in ("orgId", "runId")})

    async def _until_told(
        self, operation: str, request: Json, enough: Callable[[Json], bool] = lambda result: True
    ) -> None:
        while True:
            _, reply = await self._probe_guard.ask(operation, request, deadline_s=PROBE_DEADLINE_S)
            if reply and reply["ok"] and enough(reply["result"]):
                return
            await asyncio.sleep(PROBE_PAUSE_S)

    async def _all_workers_serving(self) -> None:
        """Wait until every worker consumes from every queue, and no connection that is dead does."""
        for queue in (*EVENT_QUEUES, *REQUEST_QUEUES):
            while await self._admin.consumers(queue) != WORKERS:
                await asyncio.sleep(PROBE_PAUSE_S)

    def _random(self, name: str) -> Random:
        return Random(f"{self._options.seed}/{name}")

    def _client(self, *, replies: bool = False) -> Client:
        client = Client(
            self._world.broker.url, replies=replies, unawaited=lambda ident: self._ledger.note("unawaited", id=ident)
        )
        self._stack.push_async_callback(client.close)
        return client

    def _publisher(self, name: str) -> Publisher:
        return Publisher(self._client(), self._ledger, self._world.gate, self._random(name), self.counts)


def _bugs_logged(logs: list[Path]) -> list[str]:
    """What workers said of themselves that only a bug explains."""
    signs = ('"event_failed"', '"request_failed"', '"event_unstorable"', "Traceback")
    found: list[str] = []
    for log in logs:
        with log.open(encoding="utf-8", errors="replace") as lines:
            found += [line.strip()[:500] for line in lines if any(sign in line for sign in signs)]
    return found
