"""The rows of the table: what is compared with what, and the goal. A row is a function and an entry of ROWS."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Final

from benchmarks import load
from benchmarks.bench import Bench
from benchmarks.databases import connected, create_empty
from benchmarks.events import (
    OURS,
    double_exports,
    double_exports_against_postgresql,
    events_against_acks,
    events_against_faststream,
    events_against_plain,
    events_against_postgresql,
    events_against_rabbitmq,
    lone_event,
    two_workers,
)
from benchmarks.load import Client, Server
from benchmarks.processes import (
    EVENTS_WORKER,
    REQUESTS_WORKER,
    WORKER,
    framework_peer,
    install_peers,
    memory_bytes_max,
    nameko_peer,
    peer,
)
from benchmarks.questions import MONTH, question
from benchmarks.results import Extra, Goal, Pair, Side, milliseconds, p99_ms
from benchmarks.sizes import (
    CLAIMS_PER_GUARD_CHECK,
    CLAIMS_PER_LARGE_CHECK,
    GUARD_CHECKS_PER_S,
    HISTORY_PAGE_RUNS,
    IN_FLIGHT_REQUESTS,
)
from benchmarks.statements import statement
from benchmarks.wire import HISTORY_ORGANISATION, encoded, new_events

LARGE_CHECK_P99_MS_MAX: Final = 25.0
GUARD_P99_MS_MAX: Final = 20.0
GUARD_DRAIN_RATIO_MIN: Final = 0.95
GUARD_WARM_UP_IN_FLIGHT: Final = 8
"""So that the worker has opened all its connections to the database that checks use."""

GUARD_POLL_S: Final = 0.05
GUARD_REST_S: Final = 1.0
"""How often the guard's backlog is looked at, and how long the worker rests after it."""

HISTORY_STEP_RUNS: Final = 200
MIB: Final = 2**20


async def lookups_against_echo(bench: Bench) -> Pair:
    """Answers per second, against an echo."""
    return await _busy_lookups(bench, "aio-pika echo", load.ECHO, peer("echo"))


async def lookups_against_faststream(bench: Bench) -> Pair:
    """Answers per second, against FastStream."""
    install_peers()
    return await _busy_lookups(
        bench, "FastStream + asyncpg", load.FASTSTREAM_CLAIMS, framework_peer("faststream_claims")
    )


async def lookups_against_nameko(bench: Bench) -> Pair:
    """Answers per second, against nameko."""
    install_peers()
    command = nameko_peer("nameko_claims", bench.services.amqp_url)
    return await _busy_lookups(bench, "nameko + psycopg2", load.NAMEKO_CLAIMS, command)


async def _busy_lookups(bench: Bench, name: str, server: Server, command: tuple[str, ...]) -> Pair:
    async def rate(client: Client, bodies: list[bytes]) -> float:
        return await client.rate(bodies, IN_FLIGHT_REQUESTS)

    ours, theirs = await _side_by_side(bench, server, command, bench.sizes.busy_lookups, rate)
    return Pair(Side("one worker", "answers/s", ours), Side(name, "answers/s", theirs))


async def lone_lookup(bench: Bench) -> Pair:
    """The time until the reply, one request after the other, against an echo."""

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
    """Run both servers all the time, and send them the same requests in turns."""
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
            bench.server(load.OUR_CLAIMS, REQUESTS_WORKER, url, warm_up, IN_FLIGHT_REQUESTS)
        )
        for _ in bench.rounds():
            bodies = stored.checks(lookups)
            theirs.append(await measure(other, _for_nameko(server, bodies)))
            ours.append(await measure(worker, bodies))
    return ours, theirs


def _for_nameko(server: Server, bodies: list[bytes]) -> list[bytes]:
    """The same requests; for nameko as its own client would send them."""
    if server is not load.NAMEKO_CLAIMS:
        return bodies
    requests = [json.loads(body) for body in bodies]
    return [encoded({"args": [each["orgId"], each["claimIds"]], "kwargs": {}}) for each in requests]


async def large_checks(bench: Bench) -> Pair:
    """The time until the reply for 500 claims, against one claim, both with many claims stored."""
    url = await bench.filled(bench.sizes.many_claims)
    stored = bench.stored_claims(bench.sizes.many_claims)
    many, one = Side("500 claims", "ms", []), Side("1 claim", "ms", [])
    all_s: list[float] = []
    async with bench.server(
        load.OUR_CLAIMS, REQUESTS_WORKER, url, stored.checks(bench.sizes.warm_up_requests), IN_FLIGHT_REQUESTS
    ) as client:
        await client.latencies_s(stored.checks(bench.sizes.warm_up_requests, CLAIMS_PER_LARGE_CHECK))
        for _ in bench.rounds():
            one.samples.append(milliseconds(await client.latencies_s(stored.checks(bench.sizes.large_checks))))
            latencies_s = await client.latencies_s(stored.checks(bench.sizes.large_checks, CLAIMS_PER_LARGE_CHECK))
            many.samples.append(milliseconds(latencies_s))
            all_s += latencies_s
    goal = Goal(LARGE_CHECK_P99_MS_MAX, at_least=False, unit=" ms")
    return Pair(many, one, [Extra("p99 of 500 claims", p99_ms(all_s), "ms", goal)])


async def reservations(bench: Bench) -> Pair:
    """The time until 500 claims are reserved that nobody else wants, against a check of 500."""
    url = await bench.filled(bench.sizes.few_claims)
    stored = bench.stored_claims(bench.sizes.few_claims)
    reserving, checking = Side("reserve 500", "ms", []), Side("check 500", "ms", [])
    async with AsyncExitStack() as stack:
        checks = await stack.enter_async_context(
            bench.server(
                load.OUR_CLAIMS, REQUESTS_WORKER, url, stored.checks(bench.sizes.warm_up_requests), IN_FLIGHT_REQUESTS
            )
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


@dataclass
class GuardSamples:
    """What the guard and the backlog saw of one kind of worker, over all rounds."""

    idle_s: list[float] = field(default_factory=list)
    draining_s: list[float] = field(default_factory=list)
    drained_per_s: list[float] = field(default_factory=list)


async def guard_beside_backlog(bench: Bench) -> Pair:
    """The time until the reply while a backlog of events drains, against a worker that is one process."""
    ours, other = Side("a process each", "ms", []), Side("one process", "ms", [])
    samples = {ours.name: GuardSamples(), other.name: GuardSamples()}
    for _ in bench.rounds():
        for side, command in ((other, peer("one_process")), (ours, WORKER)):
            latencies_s = await _guard_round(bench, command, samples[side.name])
            side.samples.append(milliseconds(latencies_s))
    extras = []
    for name, each in samples.items():
        goal = Goal(GUARD_P99_MS_MAX, at_least=False, unit=" ms") if name == ours.name else None
        extras += [
            Extra(f"{name}: p99 while draining", p99_ms(each.draining_s), "ms", goal),
            Extra(f"{name}: median with no backlog", milliseconds(each.idle_s), "ms"),
            Extra(f"{name}: p99 with no backlog", p99_ms(each.idle_s), "ms"),
            Extra(f"{name}: events drained", median(each.drained_per_s), "events/s"),
        ]
    ratio = median(samples[ours.name].drained_per_s) / median(samples[other.name].drained_per_s)
    extras.append(Extra("events drained, against one process", ratio, "x", Goal(GUARD_DRAIN_RATIO_MIN, at_least=True)))
    return Pair(ours, other, extras)


async def _guard_round(bench: Bench, command: tuple[str, ...], samples: GuardSamples) -> list[float]:
    """Check claims at a steady rate until a backlog is drained, then as long without one."""
    sizes = bench.sizes
    stored = bench.stored_claims(sizes.few_claims)
    warm_up = stored.checks(sizes.guard_warm_up_requests, CLAIMS_PER_GUARD_CHECK)
    url = await create_empty(bench.services)
    await bench.publish(OURS.address, OURS.queue, new_events(sizes.guard_events))

    async def check(client: Client, enough: asyncio.Event) -> list[float]:
        return await client.steady_latencies_s(
            lambda: encoded(stored.check(CLAIMS_PER_GUARD_CHECK)), GUARD_CHECKS_PER_S, enough
        )

    async with (
        bench.server(load.OUR_CLAIMS, command, url, warm_up[:1], IN_FLIGHT_REQUESTS) as client,
        load.open_queue(bench.services.amqp_url, OURS.queue) as queue,
        connected(url) as database,
    ):
        await client.rate(warm_up, GUARD_WARM_UP_IN_FLIGHT)
        drained, enough = asyncio.Event(), asyncio.Event()
        while (await queue.state()).messages == sizes.guard_events:
            await asyncio.sleep(GUARD_POLL_S)
        start_s, stored_before = perf_counter(), await database.fetchval(statement("count_ours"))
        checking = asyncio.create_task(check(client, drained))
        while (await queue.state()).messages:
            await asyncio.sleep(GUARD_POLL_S)
        drain_s, stored_after = perf_counter() - start_s, await database.fetchval(statement("count_ours"))
        drained.set()
        draining_s = await checking
        samples.draining_s += draining_s
        samples.drained_per_s.append((stored_after - stored_before) / drain_s)
        await asyncio.sleep(GUARD_REST_S)
        asyncio.get_running_loop().call_later(drain_s, enough.set)
        samples.idle_s += await check(client, enough)
    return draining_s


async def more_claims(bench: Bench) -> Pair:
    """The time until the reply with many claims stored, against few."""
    return await _by_stored_claims(bench, bench.sizes.many_claims, bench.sizes.few_claims)


async def huge(bench: Bench) -> Pair:
    """The time until the reply with ten times as many claims stored, against many."""
    return await _by_stored_claims(bench, bench.sizes.huge_claims, bench.sizes.many_claims)


async def _by_stored_claims(bench: Bench, more: int, fewer: int) -> Pair:
    sizes = bench.sizes
    sides = {claims: Side(f"{claims:,} stored", "ms", []) for claims in (fewer, more)}
    urls = {claims: await bench.filled(claims) for claims in sides}
    for _ in bench.rounds():
        for claims, side in sides.items():
            stored = bench.stored_claims(claims)
            warm_up = stored.checks(sizes.warm_up_requests)
            async with bench.server(
                load.OUR_CLAIMS, REQUESTS_WORKER, urls[claims], warm_up, IN_FLIGHT_REQUESTS
            ) as client:
                side.samples.append(milliseconds(await client.latencies_s(stored.checks(sizes.lone_lookups))))
    return Pair(sides[more], sides[fewer])


async def late_page(bench: Bench) -> Pair:
    """The time until a late page of history, reached by its cursor, against the first page."""
    url = await bench.filled(bench.sizes.many_claims)
    late, first = Side(f"page {bench.sizes.history_page:,}", "ms", []), Side("page 1", "ms", [])
    request = {"orgId": HISTORY_ORGANISATION, "limit": HISTORY_PAGE_RUNS}
    page_1 = encoded(request)
    async with bench.server(load.OUR_HISTORY, REQUESTS_WORKER, url, [page_1], IN_FLIGHT_REQUESTS) as client:
        bench.say("paging to the late page")
        late_page = encoded({**request, "cursor": await _cursor_of_page(client, bench.sizes.history_page)})
        for page in (page_1, late_page):
            await client.latencies_s([page] * bench.sizes.warm_up_requests)
        for _ in bench.rounds():
            for side, page in ((first, page_1), (late, late_page)):
                side.samples.append(milliseconds(await client.latencies_s([page] * bench.sizes.history_pages)))
    return Pair(late, first)


async def _cursor_of_page(client: Client, page: int) -> str:
    """The cursor of a page. The history before it is read in larger pages."""
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
        await bench.publish(OURS.address, OURS.queue, new_events(sizes.memory_few_events))
        few.samples.append(await _memory_mib_max(bench, url))
    bench.say(f"queueing {sizes.memory_many_events:,} events")
    await bench.publish(OURS.address, OURS.queue, new_events(sizes.memory_many_events))
    for _ in bench.rounds(sizes.memory_rounds):
        many.samples.append(await _memory_mib_max(bench, await create_empty(bench.services)))
    await bench.publish(OURS.address, OURS.queue)
    return Pair(many, few)


async def _memory_mib_max(bench: Bench, url: str) -> float:
    with bench.process(EVENTS_WORKER, url) as worker:
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
        "events stored, 20 claims each, against FastStream + asyncpg with one transaction per message",
        Goal(5, at_least=True),
        events_against_faststream,
    ),
    Row(
        "events-plain",
        "the same, against plain aio-pika + asyncpg: one transaction per message, 10 connections, no log",
        Goal(3.5, at_least=True),
        events_against_plain,
    ),
    Row(
        "double-exports",
        "events whose claims have all been exported before, against new ones",
        Goal(0.75, at_least=True),
        double_exports,
    ),
    Row(
        "events-acks",
        "events stored, against an aio-pika consumer that only acks",
        Goal(0.65, at_least=True),
        events_against_acks,
    ),
    Row("events-postgresql", "events stored, against PostgreSQL alone", None, events_against_postgresql),
    Row(
        "double-exports-postgresql",
        "events whose claims have all been exported before, against PostgreSQL alone",
        None,
        double_exports_against_postgresql,
    ),
    Row("events-rabbitmq", "events stored, against RabbitMQ alone", None, events_against_rabbitmq),
    Row("two-workers", "events stored by two workers, against one", Goal(1, at_least=True), two_workers),
    Row(
        "lone-event",
        "one event, from confirm to visible, against aio-pika and one transaction",
        Goal(1.5, at_least=False),
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
    Row("lone-lookup", "claim look-up, 1 in flight, against the echo", Goal(1.4, at_least=False), lone_lookup),
    Row("memory", "memory of a worker, many events queued against few", Goal(1.1, at_least=False), memory),
    Row(
        "large-checks",
        "check of 500 claims against 1 claim, 10 million stored",
        Goal(5, at_least=False),
        large_checks,
    ),
    Row("reservations", "reserve 500 claims, against a check of 500", Goal(2.5, at_least=False), reservations),
    Row(
        "guard-backlog",
        "check of 20 claims, 40 per second, while a backlog of events drains, against a worker that is one process",
        None,
        guard_beside_backlog,
    ),
    Row("more-claims", "claim look-up, 10 million stored against 100,000", Goal(1.2, at_least=False), more_claims),
    Row(
        "check-period",
        "check-period of a month, an organisation with 10,000 runs against one with 100",
        Goal(2, at_least=False),
        question("check-period", **MONTH),
    ),
    Row(
        "last-export",
        "get-last-export, an organisation with 10,000 runs against one with 100",
        Goal(1.2, at_least=False),
        question("get-last-export", targetSystem="ledger"),
    ),
    Row(
        "filtered-history",
        "history with a filter that one run fits, an organisation with 10,000 runs against one with 100",
        None,
        question("get-export-history", externalAckId="ledger-50"),
    ),
    Row(
        "explain-claim",
        "explain-claim, an organisation with 10,000 runs against one with 100",
        Goal(1.5, at_least=False),
        question("explain-claim", claimId="ledger-50-claim-1"),
    ),
    Row("late-page", "history page 10,000 by cursor against page 1", Goal(1.1, at_least=False), late_page),
)

ONE_OFF_ROWS: Final = (
    Row("huge", "claim look-up, 100 million stored against 10 million", Goal(1.2, at_least=False), huge),
)
"""Measured only when they are named: they take long, and need some 40 GB of free disk."""
