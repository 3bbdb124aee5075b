"""What all measurements share: the services, the sizes, the filled databases, and how to start what is measured."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Final

from benchmarks.databases import connected, create_empty, fill
from benchmarks.load import Address, Client, Server, open_client, open_publisher, open_queue
from benchmarks.processes import check, running, variables
from benchmarks.sizes import PREFETCH_EVENTS, SEED, Sizes
from benchmarks.statements import statement
from benchmarks.wire import StoredClaims, finished_events
from local.processes import GuardedProcess
from local.services import Services

POLL_S: Final = 0.005
DRAIN_TIMEOUT_S: Final = 300


@dataclass(frozen=True, slots=True)
class Consumer:
    """Something that consumes events: how it is started, where its events go, how to count what it has stored."""

    command: Sequence[str]
    address: Address
    queue: str
    count: str | None
    """A statement; None if nothing is stored."""


@dataclass
class Bench:
    """One run of the suite."""

    services: Services
    sizes: Sizes
    logs: Path
    say: Callable[[str], None] = print
    _filled: dict[int, str] = field(default_factory=dict)

    def rounds(self, count: int | None = None) -> Iterator[int]:
        """The rounds of a row."""
        count = count or self.sizes.rounds
        for number in range(1, count + 1):
            self.say(f"round {number} of {count}")
            yield number

    @contextmanager
    def process(
        self, command: Sequence[str], database_url: str, prefetch: int = PREFETCH_EVENTS
    ) -> Iterator[GuardedProcess]:
        """Run something that is measured."""
        with running(command, variables(self.services, database_url, prefetch), self.logs) as process:
            yield process

    async def filled(self, claims: int) -> str:
        """The URL of a database with so many claims. It is filled when first asked for."""
        if claims not in self._filled:
            few = claims == self.sizes.few_claims
            self._filled[claims] = await fill(
                self.services, claims, self.sizes, self.say, for_peers=few, for_history=not few
            )
        return self._filled[claims]

    def stored_claims(self, claims: int) -> StoredClaims:
        """What can be asked of that database."""
        return StoredClaims(claims, self.sizes, Random(SEED))

    @asynccontextmanager
    async def server(
        self, server: Server, command: Sequence[str], database_url: str, warm_up: Sequence[bytes], prefetch: int
    ) -> AsyncIterator[Client]:
        """Run something that answers, and a client that has warmed it up."""
        with self.process(command, database_url, prefetch):
            async with open_client(self.services.amqp_url, server) as client:
                await client.until_answered(warm_up[0])
                await client.latencies_s(warm_up)
                yield client

    async def publish(self, address: Address, queue: str, events: int) -> None:
        """Fill a queue that is empty afterwards but for these events."""
        async with open_queue(self.services.amqp_url, queue) as looking:
            await looking.purge()
            async with open_publisher(self.services.amqp_url, address) as publisher:
                await publisher.publish_all(body for _, body in finished_events(events))
            while (await looking.look()).messages < events:
                await asyncio.sleep(POLL_S)

    async def drain(self, consumer: Consumer, processes: int = 1) -> float:
        """Fill the queue, start consumers, and count events a second from when all consume until all are done."""
        events = self.sizes.drained_events
        database_url = await create_empty(self.services)
        await self.publish(consumer.address, consumer.queue, events)
        async with (
            open_queue(self.services.amqp_url, consumer.queue) as queue,
            connected(database_url) as database,
            asyncio.timeout(DRAIN_TIMEOUT_S),
        ):

            async def done() -> int:
                if consumer.count is None:
                    return events - (await queue.look()).messages
                count: int = await database.fetchval(statement(consumer.count))
                return count

            with ExitStack() as stack:
                started = [stack.enter_context(self.process(consumer.command, database_url)) for _ in range(processes)]
                while (waiting := await queue.look()).consumers < processes or waiting.messages == events:
                    check(started)
                    await asyncio.sleep(POLL_S)
                before, began = await done(), perf_counter()
                while (await queue.look()).messages:
                    check(started)
                    await asyncio.sleep(POLL_S)
                while await done() < events:
                    await asyncio.sleep(POLL_S)
                return (events - before) / (perf_counter() - began)
