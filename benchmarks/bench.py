"""What all measurements share: services, sizes, filled databases, and how measured processes are started."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Final
from uuid import uuid4

from benchmarks.databases import connected, create_empty, fill
from benchmarks.load import Address, Client, Server, open_client, open_publisher, open_queue
from benchmarks.processes import check, running, variables
from benchmarks.sizes import PREFETCH_EVENTS, SEED, Sizes
from benchmarks.statements import statement
from benchmarks.wire import StoredClaims, finished_event, new_events
from local.processes import GuardedProcess
from local.services import Services

POLL_S: Final = 0.005
DRAIN_TIMEOUT_S: Final = 300


@dataclass(frozen=True, slots=True)
class Consumer:
    """A process that consumes events: how to start it, where to publish, and how to count what it has stored."""

    command: Sequence[str]
    address: Address
    queue: str
    count: str | None
    """The name of a statement. None if the consumer stores nothing."""


@dataclass
class Bench:
    """One run of the benchmarks."""

    services: Services
    sizes: Sizes
    logs: Path
    say: Callable[[str], None] = print
    _filled: dict[int, str] = field(default_factory=dict)

    def rounds(self, count: int | None = None) -> Iterator[int]:
        """Count the rounds of a row, and show which one it is."""
        count = count or self.sizes.rounds
        for number in range(1, count + 1):
            self.say(f"round {number} of {count}")
            yield number

    @contextmanager
    def process(
        self, command: Sequence[str], database_url: str, prefetch: int = PREFETCH_EVENTS
    ) -> Iterator[GuardedProcess]:
        """Run a process that is measured."""
        with running(command, variables(self.services, database_url, prefetch), self.logs) as process:
            yield process

    async def filled(self, claims: int) -> str:
        """The URL of a database with this many claims. The first call fills it."""
        if claims not in self._filled:
            few = claims == self.sizes.few_claims
            self._filled[claims] = await fill(
                self.services, claims, self.sizes, self.say, for_peers=few, for_history=not few
            )
        return self._filled[claims]

    def stored_claims(self, claims: int) -> StoredClaims:
        """Requests about the claims in that database."""
        return StoredClaims(claims, self.sizes, Random(SEED))

    @asynccontextmanager
    async def server(
        self, server: Server, command: Sequence[str], database_url: str, warm_up: Sequence[bytes], prefetch: int
    ) -> AsyncIterator[Client]:
        """Run a server, and return a client that has warmed it up."""
        with self.process(command, database_url, prefetch):
            async with open_client(self.services.amqp_url, server) as client:
                await client.until_answered(warm_up[0])
                await client.latencies_s(warm_up)
                yield client

    async def publish(self, address: Address, queue: str, bodies: Iterable[bytes] = ()) -> None:
        """Empty a queue, then publish these events into it."""
        published = 0

        def counted() -> Iterator[bytes]:
            nonlocal published
            for body in bodies:
                published += 1
                yield body

        async with open_queue(self.services.amqp_url, queue) as target:
            await target.purge()
            async with open_publisher(self.services.amqp_url, address) as publisher:
                await publisher.publish_all(counted())
            while (await target.state()).messages < published:
                await asyncio.sleep(POLL_S)

    async def drain(self, consumer: Consumer, processes: int = 1, events: int | None = None) -> float:
        """Fill the queue, with `drained_events` unless told otherwise, and start consumers.

        Returns events per second, from when all consume until all are done.
        """
        bodies = list(new_events(events or self.sizes.drained_events))
        return await self._drain(consumer, await create_empty(self.services), bodies, processes)

    async def drain_twice(self, consumer: Consumer) -> tuple[float, float]:
        """The same for new events, and then for as many new runs with the same claims: each is a double export."""
        database_url = await create_empty(self.services)
        run_ids = [uuid4() for _ in range(self.sizes.drained_events)]
        new = await self._drain(consumer, database_url, [finished_event(each, each) for each in run_ids])
        return new, await self._drain(consumer, database_url, [finished_event(uuid4(), each) for each in run_ids])

    async def _drain(self, consumer: Consumer, database_url: str, bodies: Sequence[bytes], processes: int = 1) -> float:
        await self.publish(consumer.address, consumer.queue, bodies)
        events = len(bodies)
        async with (
            open_queue(self.services.amqp_url, consumer.queue) as queue,
            connected(database_url) as database,
            asyncio.timeout(DRAIN_TIMEOUT_S),
        ):

            async def stored_events() -> int:
                assert consumer.count is not None
                count: int = await database.fetchval(statement(consumer.count))
                return count

            stored_before = 0 if consumer.count is None else await stored_events()

            async def done_events() -> int:
                if consumer.count is None:
                    return events - (await queue.state()).messages
                return await stored_events() - stored_before

            with ExitStack() as stack:
                consumers = [
                    stack.enter_context(self.process(consumer.command, database_url)) for _ in range(processes)
                ]
                while (state := await queue.state()).consumers < processes or state.messages == events:
                    check(consumers)
                    await asyncio.sleep(POLL_S)
                events_at_start, start_s = await done_events(), perf_counter()
                while (await queue.state()).messages:
                    check(consumers)
                    await asyncio.sleep(POLL_S)
                while await done_events() < events:
                    await asyncio.sleep(POLL_S)
                return (events - events_at_start) / (perf_counter() - start_s)
