"""A cluster of three nodes loses the one that has everything. Its events and answers go on without it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import aio_pika
import pytest

from local.rabbitmq import LocalRabbitMQ
from sql.connection import Connection
from tests.chaos.proxy import Proxy
from tests.conftest import running_worker, worker_settings
from tests.resilience.cluster import cluster
from tests.resilience.conftest import opened, through
from tests.resilience.observing import Log, publish_all, rabbitmqctl, until, until_serving
from tests.wire import Wire, run_created
from worker.broker.declaration import declare
from worker.broker.topology import TOPOLOGY, Topology
from worker.database.pool import Pool
from worker.routes import ROUTES, Part
from worker.session import WorkerParts

EVENTS = 500
QUORUM = TOPOLOGY.with_quorum_rpc_queues()


@pytest.fixture
def nodes() -> Iterator[list[LocalRabbitMQ]]:
    """The three nodes."""
    with cluster() as servers:
        yield servers


@pytest.fixture
def url_list(nodes: list[LocalRabbitMQ]) -> str:
    """The URLs of all nodes."""
    return ",".join(node.url for node in nodes)


async def declare_on(node: LocalRabbitMQ, topology: Topology) -> None:
    """Have one node lead all queues, and be the home of classic ones."""
    async with await aio_pika.connect(node.url) as connection:
        await declare(await connection.channel(), topology)
    leaders = await rabbitmqctl(node, "list_queues", "name", "pid", "--no-table-headers")
    assert len(leaders.splitlines()) == len(topology.queues)
    assert "second@" not in leaders
    assert "third@" not in leaders


@asynccontextmanager
async def publishing(wire: Wire, confirmed: list[str]) -> AsyncIterator[None]:
    """Publish one event after the other. Those that RabbitMQ does not confirm are not counted."""

    stopping = asyncio.Event()

    async def publish() -> None:
        while not stopping.is_set():
            event = run_created(orgId="org-cluster")
            with suppress(aio_pika.exceptions.AMQPError, TimeoutError):
                async with asyncio.timeout(5):
                    await wire.publish("run-created", event)
                confirmed.append(event["eventId"])
            await asyncio.sleep(0)  # a channel that is closed refuses at once, and the others must have their turn

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        stopping.set()  # a cancellation that meets a refusal would be lost
        await task


async def all_stored(connection: Connection, event_ids: list[str]) -> bool:
    """Whether all these events are in the log."""
    found = await connection.fetchval(
        "SELECT count(*) FROM export_run_events WHERE event_id = ANY($1::text[]::uuid[])", event_ids
    )
    return bool(found == len(event_ids))


@pytest.mark.parametrize("way", ["URL list", "balancer"])
async def test_the_node_that_has_everything_is_killed(
    nodes: list[LocalRabbitMQ],
    url_list: str,
    database_url: str,
    pool: Pool,
    connection: Connection,
    way: str,
) -> None:
    first, second, third = nodes
    await declare_on(first, QUORUM)
    confirmed: list[str] = []
    async with (
        opened(first.url, Proxy) as balancer,
        Wire.connect(second.url) as exporter,
        Wire.connect(third.url) as guard,
    ):
        url = url_list if way == "URL list" else through(first.url, balancer)
        settings = worker_settings(url, database_url, rpc_queue_type="quorum")
        async with running_worker(settings, pool):
            await until_serving(guard)
            async with publishing(exporter, confirmed):
                await until(lambda: len(confirmed) > EVENTS)
                await asyncio.to_thread(first.kill)
                balancer.target_port = second.port
                confirmed_before = len(confirmed)
                await until_serving(guard)
                await until(lambda: len(confirmed) > confirmed_before + EVENTS)
            await until(lambda: all_stored(connection, confirmed))


async def test_events_do_not_wait_for_the_request_queues(
    nodes: list[LocalRabbitMQ], database_url: str, pool: Pool, connection: Connection, log: Log
) -> None:
    """Classic queues are away with their node. They are back with it."""
    first, second, _ = nodes
    await declare_on(first, TOPOLOGY)
    events = [run_created(orgId="org-cluster") for _ in range(EVENTS)]
    async with opened(first.url, Proxy) as balancer, Wire.connect(second.url) as wire:
        settings = worker_settings(through(first.url, balancer), database_url)
        async with (
            running_worker(settings, pool, WorkerParts(routes=ROUTES.only(Part.EVENTS))),
            running_worker(settings, pool, WorkerParts(routes=ROUTES.only(Part.REQUESTS))),
        ):
            await until_serving(wire)
            await asyncio.to_thread(first.kill)
            balancer.target_port = second.port
            await publish_all(wire, "run-created", events)
            await until(lambda: all_stored(connection, [event["eventId"] for event in events]))
            assert len(log.of("session_started")) == 3  # the one for events has another one
            with pytest.raises((aio_pika.exceptions.AMQPError, TimeoutError)):
                await wire.ask("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]}, wait_s=1)
            await asyncio.to_thread(first.start)
            await until_serving(wire)


async def test_a_cluster_without_its_majority_takes_nothing_and_loses_nothing(
    nodes: list[LocalRabbitMQ], url_list: str, database_url: str, pool: Pool, connection: Connection
) -> None:
    first, second, third = nodes
    await declare_on(first, QUORUM)
    settings = worker_settings(url_list, database_url, rpc_queue_type="quorum")
    events = [run_created(orgId="org-cluster") for _ in range(EVENTS)]
    async with running_worker(settings, pool):
        async with Wire.connect(first.url) as wire:
            await until_serving(wire)
            await publish_all(wire, "run-created", events)
            await asyncio.to_thread(second.kill)
            await asyncio.to_thread(third.kill)
        await asyncio.to_thread(second.start)
        async with Wire.connect(second.url) as wire:
            await until_serving(wire)
        await until(lambda: all_stored(connection, [event["eventId"] for event in events]))
