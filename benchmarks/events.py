"""The rows about events: how many are stored, against peers and against what limits it, and how soon one is."""

from time import perf_counter
from typing import Final

from benchmarks import load
from benchmarks.bench import Bench, Consumer
from benchmarks.databases import connected, create_empty
from benchmarks.load import open_publisher
from benchmarks.peers import environment
from benchmarks.processes import EVENTS_WORKER, framework_peer, install_librabbitmq, install_peers, peer
from benchmarks.results import Pair, Side, milliseconds
from benchmarks.statements import statement
from benchmarks.storing import storing_rates
from benchmarks.wire import finished_events

OURS: Final = Consumer(EVENTS_WORKER, load.OUR_EVENTS, load.EVENTS_QUEUE, "count_ours")
"""The worker, with its event log."""


def peer_consumer(command: tuple[str, ...], *, stores: bool = True) -> Consumer:
    """A peer that consumes events."""
    return Consumer(command, load.PEER_EVENTS, environment.EVENTS_QUEUE, "count_peer" if stores else None)


async def events_against_faststream(bench: Bench) -> Pair:
    """Events stored per second: ours with the event log, theirs in one transaction per message and without a log."""
    install_peers()
    return await _drain_rates(bench, "FastStream + asyncpg", peer_consumer(framework_peer("faststream_events")))


async def events_against_plain(bench: Bench) -> Pair:
    """Events stored per second, against plain aio-pika and asyncpg: a transaction per message, ten connections."""
    return await _drain_rates(bench, "aio-pika + asyncpg", peer_consumer(peer("single_transaction")))


async def double_exports(bench: Bench) -> Pair:
    """Events stored per second whose claims have all been exported before, against new ones."""
    again, new = Side("exported before", "events/s", []), Side("new", "events/s", [])
    for _ in bench.rounds():
        new_rate, again_rate = await bench.drain_twice(OURS)
        new.samples.append(new_rate)
        again.samples.append(again_rate)
    return Pair(again, new)


async def events_against_acks(bench: Bench) -> Pair:
    """Events stored per second, against a consumer that only acknowledges them."""
    return await _drain_rates(bench, "aio-pika, acks only", peer_consumer(peer("acks"), stores=False))


async def events_against_postgresql(bench: Bench) -> Pair:
    """Events stored per second, against what PostgreSQL stores by the same statements without RabbitMQ."""
    ours, ceiling = Side("one worker", "events/s", []), Side("the same statements alone", "events/s", [])
    for _ in bench.rounds():
        ceiling.samples.append((await storing_rates(bench))[0])
        ours.samples.append(await bench.drain(OURS))
    return Pair(ours, ceiling)


async def double_exports_against_postgresql(bench: Bench) -> Pair:
    """The same for events whose claims have all been exported before. Nobody publishes the alerts of those alone."""
    ours, ceiling = Side("one worker", "events/s", []), Side("the same statements alone", "events/s", [])
    for _ in bench.rounds():
        ceiling.samples.append((await storing_rates(bench))[1])
        ours.samples.append((await bench.drain_twice(OURS))[1])
    return Pair(ours, ceiling)


async def events_against_rabbitmq(bench: Bench) -> Pair:
    """Events stored per second, against what RabbitMQ delivers to a client in C that only acknowledges."""
    install_librabbitmq(bench.say)
    ours, ceiling = Side("one worker", "events/s", []), Side("librabbitmq, acks only", "events/s", [])
    consumer = peer_consumer(peer("c_acks"), stores=False)
    for _ in bench.rounds():
        ceiling.samples.append(await bench.drain(consumer, events=bench.sizes.delivered_events))
        ours.samples.append(await bench.drain(OURS))
    return Pair(ours, ceiling)


async def _drain_rates(bench: Bench, name: str, other: Consumer) -> Pair:
    ours, theirs = Side("one worker", "events/s", []), Side(name, "events/s", [])
    for _ in bench.rounds():
        theirs.samples.append(await bench.drain(other))
        ours.samples.append(await bench.drain(OURS))
    return Pair(ours, theirs)


async def two_workers(bench: Bench) -> Pair:
    """Events stored per second by two workers, against one."""
    two, one = Side("two workers", "events/s", []), Side("one worker", "events/s", [])
    for _ in bench.rounds():
        one.samples.append(await bench.drain(OURS))
        two.samples.append(await bench.drain(OURS, processes=2))
    return Pair(two, one)


async def lone_event(bench: Bench) -> Pair:
    """The time from an event's confirm until its run is visible in the database, against one plain transaction."""
    ours, theirs = Side("one worker", "ms", []), Side("aio-pika, one transaction", "ms", [])
    other = peer_consumer(peer("single_transaction"))
    for _ in bench.rounds():
        theirs.samples.append(await _until_visible_ms(bench, other, "visible_peer"))
        ours.samples.append(await _until_visible_ms(bench, OURS, "visible_ours"))
    return Pair(ours, theirs)


async def _until_visible_ms(bench: Bench, consumer: Consumer, visible: str) -> float:
    url = await create_empty(bench.services)
    await bench.publish(consumer.address, consumer.queue)
    latencies_s: list[float] = []
    with bench.process(consumer.command, url):
        async with open_publisher(bench.services.amqp_url, consumer.address) as publisher, connected(url) as database:
            warm_up = bench.sizes.lone_events
            for number, (run_id, body) in enumerate(finished_events(warm_up + bench.sizes.lone_events)):
                await publisher.publish(body)
                confirm_s = perf_counter()
                while not await database.fetchval(statement(visible), run_id):
                    pass
                if number >= warm_up:
                    latencies_s.append(perf_counter() - confirm_s)
    return milliseconds(latencies_s)
