"""The rows of the table: what is compared with what, and the goal. A new row is a function and an entry of ROWS."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from benchmarks import load
from benchmarks.bench import Bench, Consumer
from benchmarks.databases import connected, create_empty
from benchmarks.load import Client, Server, open_publisher
from benchmarks.peers import environment
from benchmarks.processes import WORKER, framework_peer, install_peers, memory_bytes_max, nameko_peer, peer
from benchmarks.results import Also, Goal, Pair, Side, milliseconds, p99_ms
from benchmarks.sizes import CLAIMS_PER_LARGE_CHECK, HISTORY_PAGE_RUNS, IN_FLIGHT_REQUESTS
from benchmarks.statements import statement
from benchmarks.wire import HISTORY_ORGANISATION, encoded, finished_events

LARGE_CHECK_P99_MS_MAX: Final = 25.0
HISTORY_STEP_RUNS: Final = 200
MIB: Final = 2**20

OURS: Final = Consumer(WORKER, load.OUR_EVENTS, load.EVENTS_QUEUE, "count_ours")
"""The worker, with its event log."""


def consuming(command: tuple[str, ...], *, stores: bool = True) -> Consumer:
    """A peer that consumes events."""
    return Consumer(command, load.PEER_EVENTS, environment.EVENTS_QUEUE, "count_peer" if stores else None)


async def events_against_faststream(bench: Bench) -> Pair:
    """Events stored a second, ours with the event log, theirs one transaction a message without."""
    install_peers()
    return await _drained(bench, "FastStream + asyncpg", consuming(framework_peer("faststream_events")))


async def events_against_acks(bench: Bench) -> Pair:
    """Events stored a second, against acknowledging alone."""
    return await _drained(bench, "aio-pika, acks only", consuming(peer("acks"), stores=False))


async def _drained(bench: Bench, name: str, other: Consumer) -> Pair:
    ours, theirs = Side("one worker", "events/s", []), Side(name, "events/s", [])
    for _ in bench.rounds():
        theirs.samples.append(await bench.drain(other))
        ours.samples.append(await bench.drain(OURS))
    return Pair(ours, theirs)


async def two_workers(bench: Bench) -> Pair:
    """Events stored a second by two workers, against one."""
    two, one = Side("two workers", "events/s", []), Side("one worker", "events/s", [])
    for _ in bench.rounds():
        one.samples.append(await bench.drain(OURS))
        two.samples.append(await bench.drain(OURS, processes=2))
    return Pair(two, one)


async def lone_event(bench: Bench) -> Pair:
    """From the confirm of one event until its run can be seen in the database, against one plain transaction."""
    ours, theirs = Side("one worker", "ms", []), Side("aio-pika, one transaction", "ms", [])
    other = consuming(peer("single_transaction"))
    for _ in bench.rounds():
        theirs.samples.append(await _until_visible_ms(bench, other, "visible_peer"))
        ours.samples.append(await _until_visible_ms(bench, OURS, "visible_ours"))
    return Pair(ours, theirs)


async def _until_visible_ms(bench: Bench, consumer: Consumer, visible: str) -> float:
    url = await create_empty(bench.services)
    await bench.publish(consumer.address, consumer.queue, 0)
    latencies_s: list[float] = []
    with bench.process(consumer.command, url):
        async with open_publisher(bench.services.amqp_url, consumer.address) as publisher, connected(url) as database:
            warm_up = bench.sizes.lone_events
            for number, (run_id, body) in enumerate(finished_events(warm_up + bench.sizes.lone_events)):
                await publisher.publish(body)
                confirmed = perf_counter()
                while not await database.fetchval(statement(visible), run_id):
                    pass
                if number >= warm_up:
                    latencies_s.append(perf_counter() - confirmed)
    return milliseconds(latencies_s)


async def lookups_against_echo(bench: Bench) -> Pair:
    """Answers a second, against an echo."""
    return await _busy_lookups(bench, "aio-pika echo", load.ECHO, peer("echo"))


async def lookups_against_faststream(bench: Bench) -> Pair:
    """Answers a second, against FastStream."""
    install_peers()
    return await _busy_lookups(
        bench, "FastStream + asyncpg", load.FASTSTREAM_CLAIMS, framework_peer("faststream_claims")
    )


async def lookups_against_nameko(bench: Bench) -> Pair:
    """Answers a second, against nameko."""
    install_peers()
    command = nameko_peer("nameko_claims", bench.services.amqp_url)
    return await _busy_lookups(bench, "nameko + psycopg2", load.NAMEKO_CLAIMS, command)


async def _busy_lookups(bench: Bench, name: str, server: Server, command: tuple[str, ...]) -> Pair:
    async def rate(client: Client, bodies: list[bytes]) -> float:
        return await client.rate(bodies, IN_FLIGHT_REQUESTS)

    ours, theirs = await _side_by_side(bench, server, command, bench.sizes.busy_lookups, rate)
    return Pair(Side("one worker", "answers/s", ours), Side(name, "answers/s", theirs))


async def lone_lookup(bench: Bench) -> Pair:
    """The time until the answer, one request after the other, against an echo."""

    async def latency_ms(client: Client, bodies: list[bytes]) -> float:
        return milliseconds(await client.latencies_s(bodies))

    ours, theirs = await _side_by_side(bench, load.ECHO, peer("echo"), bench.sizes.lone_lookups, latency_ms)
    return Pair(Side("one worker", "ms", ours), Side("aio-pika echo", "ms", theirs))


async def _side_by_side(
    bench: Bench,
    server: Server,
    command: tuple[str, ...],
    lookups: int,
    measure: Callable[[Client, list[bytes]], Awaitable[float]],
) -> tuple[list[float], list[float]]:
    """Both are up all the time, and asked in turns for the same claims."""
    url = await bench.filled(bench.sizes.few_claims)
    stored = bench.stored_claims(bench.sizes.few_claims)
    warm_up = stored.checks(bench.sizes.warm_up_requests)
    ours: list[float] = []
    theirs: list[float] = []
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(
            bench.server(server, command, url, _for_nameko(server, warm_up), IN_FLIGHT_REQUESTS)
        )
        worker = await stack.enter_async_context(
            bench.server(load.OUR_CLAIMS, WORKER, url, warm_up, IN_FLIGHT_REQUESTS)
        )
        for _ in bench.rounds():
            bodies = stored.checks(lookups)
            theirs.append(await measure(other, _for_nameko(server, bodies)))
            ours.append(await measure(worker, bodies))
    return ours, theirs


def _for_nameko(server: Server, bodies: list[bytes]) -> list[bytes]:
    """The same requests as nameko's own client would send them, if it is nameko that is asked."""
    if server is not load.NAMEKO_CLAIMS:
        return bodies
    requests = [json.loads(body) for body in bodies]
    return [encoded({"args": [each["orgId"], each["claimIds"]], "kwargs": {}}) for each in requests]


async def large_checks(bench: Bench) -> Pair:
    """The time until the answer for 500 claims, against one claim, both with all claims stored."""
    url = await bench.filled(bench.sizes.many_claims)
    stored = bench.stored_claims(bench.sizes.many_claims)
    many, one = Side("500 claims", "ms", []), Side("1 claim", "ms", [])
    every: list[float] = []
    async with bench.server(
        load.OUR_CLAIMS, WORKER, url, stored.checks(bench.sizes.warm_up_requests), IN_FLIGHT_REQUESTS
    ) as client:
        await client.latencies_s(stored.checks(bench.sizes.warm_up_requests, CLAIMS_PER_LARGE_CHECK))
        for _ in bench.rounds():
            one.samples.append(milliseconds(await client.latencies_s(stored.checks(bench.sizes.large_checks))))
            latencies_s = await client.latencies_s(stored.checks(bench.sizes.large_checks, CLAIMS_PER_LARGE_CHECK))
            many.samples.append(milliseconds(latencies_s))
            every += latencies_s
    also = Also("p99 of 500 claims", p99_ms(every), Goal(LARGE_CHECK_P99_MS_MAX, at_least=False, unit=" ms"))
    return Pair(many, one, [also])


async def reservations(bench: Bench) -> Pair:
    """The time until 500 claims are reserved that nobody else wants, against a check of as many."""
    url = await bench.filled(bench.sizes.few_claims)
    stored = bench.stored_claims(bench.sizes.few_claims)
    reserving, checking = Side("reserve 500", "ms", []), Side("check 500", "ms", [])
    async with AsyncExitStack() as stack:
        checks = await stack.enter_async_context(
            bench.server(load.OUR_CLAIMS, WORKER, url, stored.checks(bench.sizes.warm_up_requests), IN_FLIGHT_REQUESTS)
        )
        reserves = await stack.enter_async_context(load.open_client(bench.services.amqp_url, load.OUR_RESERVATIONS))
        for client, request in ((checks, stored.check), (reserves, stored.reserve)):
            for _ in range(bench.sizes.warm_up_requests // 10):
                await client.ask(encoded(request(CLAIMS_PER_LARGE_CHECK)))
        for _ in bench.rounds():
            for side, client, request in ((checking, checks, stored.check), (reserving, reserves, stored.reserve)):
                bodies = [encoded(request(CLAIMS_PER_LARGE_CHECK)) for _ in range(bench.sizes.large_checks)]
                side.samples.append(milliseconds(await client.latencies_s(bodies)))
    return Pair(reserving, checking)


async def more_claims(bench: Bench) -> Pair:
    """The time until the answer with many claims stored, against few."""
    sizes = bench.sizes
    sides = {claims: Side(f"{claims:,} stored", "ms", []) for claims in (sizes.few_claims, sizes.many_claims)}
    urls = {claims: await bench.filled(claims) for claims in sides}
    for _ in bench.rounds():
        for claims, side in sides.items():
            stored = bench.stored_claims(claims)
            warm_up = stored.checks(sizes.warm_up_requests)
            async with bench.server(load.OUR_CLAIMS, WORKER, urls[claims], warm_up, IN_FLIGHT_REQUESTS) as client:
                side.samples.append(milliseconds(await client.latencies_s(stored.checks(sizes.lone_lookups))))
    return Pair(sides[sizes.many_claims], sides[sizes.few_claims])


async def late_page(bench: Bench) -> Pair:
    """The time until a late page of history, reached by its cursor, against the first page."""
    url = await bench.filled(bench.sizes.many_claims)
    late, first = Side(f"page {bench.sizes.history_page:,}", "ms", []), Side("page 1", "ms", [])
    request = {"orgId": HISTORY_ORGANISATION, "limit": HISTORY_PAGE_RUNS}
    page_1 = encoded(request)
    async with bench.server(load.OUR_HISTORY, WORKER, url, [page_1], IN_FLIGHT_REQUESTS) as client:
        bench.say("paging to the late page")
        late_page = encoded({**request, "cursor": await _cursor_of_page(client, bench.sizes.history_page)})
        for page in (page_1, late_page):
            await client.latencies_s([page] * bench.sizes.warm_up_requests)
        for _ in bench.rounds():
            for side, page in ((first, page_1), (late, late_page)):
                side.samples.append(milliseconds(await client.latencies_s([page] * bench.sizes.history_pages)))
    return Pair(late, first)


async def _cursor_of_page(client: Client, page: int) -> str:
    """The cursor that leads to a page; the pages before are leafed through in larger ones."""
    request: dict[str, object] = {"orgId": HISTORY_ORGANISATION}
    runs_before = (page - 1) * HISTORY_PAGE_RUNS
    while runs_before:
        limit = min(runs_before, HISTORY_STEP_RUNS)
        answer = json.loads(await client.ask(encoded({**request, "limit": limit})))
        request["cursor"] = answer["result"]["nextCursor"]
        runs_before -= limit
    return str(request["cursor"])


async def memory(bench: Bench) -> Pair:
    """The most memory of a worker that begins with many events queued, against few."""
    sizes = bench.sizes
    many = Side(f"{sizes.memory_many_events:,} queued", "MiB", [])
    few = Side(f"{sizes.memory_few_events:,} queued", "MiB", [])
    for _ in bench.rounds(sizes.memory_rounds):
        url = await create_empty(bench.services)
        await bench.publish(OURS.address, OURS.queue, sizes.memory_few_events)
        few.samples.append(await _memory_mib_max(bench, url))
    bench.say(f"queueing {sizes.memory_many_events:,} events")
    await bench.publish(OURS.address, OURS.queue, sizes.memory_many_events)
    for _ in bench.rounds(sizes.memory_rounds):
        many.samples.append(await _memory_mib_max(bench, await create_empty(bench.services)))
    await bench.publish(OURS.address, OURS.queue, 0)
    return Pair(many, few)


async def _memory_mib_max(bench: Bench, url: str) -> float:
    with bench.process(WORKER, url) as worker:
        await asyncio.sleep(bench.sizes.memory_drain_s)
        return memory_bytes_max(worker.pid) / MIB


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    name: str
    what: str
    goal: Goal | None
    measure: Callable[[Bench], Awaitable[Pair]]


ROWS: Final = (
    Row(
        "events-faststream",
        "events stored, 20 claims each, against FastStream + asyncpg with one transaction a message",
        Goal(5, at_least=True),
        events_against_faststream,
    ),
    Row(
        "events-acks",
        "events stored, against an aio-pika consumer that only acks",
        Goal(0.5, at_least=True),
        events_against_acks,
    ),
    Row("two-workers", "events stored by two workers, against one", Goal(1, at_least=True), two_workers),
    Row(
        "lone-event",
        "one event, from confirm to visible, against aio-pika and one transaction",
        Goal(2, at_least=False),
        lone_event,
    ),
    Row(
        "lookups-echo",
        "claim look-ups, 64 in flight, against an aio-pika echo",
        Goal(0.95, at_least=True),
        lookups_against_echo,
    ),
    Row("lookups-faststream", "the same, against FastStream + asyncpg", None, lookups_against_faststream),
    Row("lookups-nameko", "the same, against nameko + psycopg2", None, lookups_against_nameko),
    Row("lone-lookup", "claim look-up, 1 in flight, against the echo", Goal(1.8, at_least=False), lone_lookup),
    Row("memory", "memory of a worker, many events queued against few", Goal(1.1, at_least=False), memory),
    Row(
        "large-checks",
        "check of 500 claims against 1 claim, 10 million stored",
        Goal(6, at_least=False),
        large_checks,
    ),
    Row("reservations", "reserve 500 claims, against a check of 500", Goal(3, at_least=False), reservations),
    Row("more-claims", "claim look-up, 10 million stored against 100,000", Goal(1.2, at_least=False), more_claims),
    Row("late-page", "history page 10,000 by cursor against page 1", Goal(1.1, at_least=False), late_page),
)
