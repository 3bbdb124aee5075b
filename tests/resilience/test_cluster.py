"""A cluster of three nodes loses one, or restarts them one by one. Its events and answers go on meanwhile."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import aio_pika
import pytest

from export_runs_client import ExportRuns, ExportRunsError, NoAnswer
from export_runs_client.schema.operations import GET_LAST_EXPORT
from export_runs_client.schema.requests import GetLastExport
from local.rabbitmq import LocalRabbitMQ
from schema import names
from sql.connection import Connection
from tests.chaos.proxy import Proxy
from tests.cluster import cluster
from tests.conftest import running_worker, worker_settings
from tests.resilience.clients import ORGANISATION, all_stored, publishing, serves
from tests.resilience.conftest import opened, through
from tests.resilience.observing import Log, publish_all, rabbitmqctl, until, until_serving
from tests.wire import WAIT_S, Wire, run_created
from worker.broker.declaration import declare
from worker.broker.link import open_link
from worker.broker.publisher import open_publisher
from worker.broker.topology import LEADER_LOCATOR, TOPOLOGY, Topology
from worker.database.pool import Pool
from worker.routes import ROUTES, Part
from worker.session import WorkerParts

EVENTS = 500
CALLER_PAUSE_S = 0.1
"""Between two calls: nodes that start need the machine too."""

ANSWER_S = 10
"""How long a caller waits for an answer."""

NO_LEADER = "has no leader|the queue without a leader"
"""RabbitMQ 3.10 refuses what it has no leader for. RabbitMQ 4 waits for a leader, and confirms nothing meanwhile."""

DRAIN_TRIES_MAX = 5

QUORUM = TOPOLOGY.with_quorum_rpc_queues()


@pytest.fixture
def nodes() -> Iterator[list[LocalRabbitMQ]]:
    """Three nodes of a test's own: after others were killed, a queue of the same name may find no leader."""
    with cluster() as servers:
        yield servers


@pytest.fixture
def url_list(nodes: list[LocalRabbitMQ]) -> str:
    """The URLs of all nodes."""
    return ",".join(node.url for node in nodes)


async def declare_on(node: LocalRabbitMQ, topology: Topology) -> None:
    """Have one node lead all queues, and be the home of classic ones. A worker takes them as they are."""
    local = {LEADER_LOCATOR: "client-local"}
    queues = tuple(
        replace(queue, limits={**queue.limits, **local}) if LEADER_LOCATOR in queue.limits else queue
        for queue in topology.queues
    )
    async with await aio_pika.connect(node.url) as connection:
        await declare(await connection.channel(), replace(topology, queues=queues))
    leaders = await rabbitmqctl(node, "list_queues", "name", "pid", "--no-table-headers")
    assert len(leaders.splitlines()) == len(topology.queues)
    assert "second@" not in leaders
    assert "third@" not in leaders


async def assert_led_by_all(nodes: list[LocalRabbitMQ]) -> None:
    """Assert that each node has each queue, and leads as many as the others."""
    listed = await rabbitmqctl(nodes[0], "list_queues", "leader", "members", "--no-table-headers")
    leaders = Counter(line.split("\t")[0] for line in listed.splitlines())
    assert [len(leaders), sum(leaders.values())] == [len(nodes), len(QUORUM.queues)]
    assert max(leaders.values()) - min(leaders.values()) <= 1
    assert {line.count("@localhost") for line in listed.splitlines()} == {1 + len(nodes)}


async def test_a_cluster_without_its_majority_takes_nothing_and_loses_nothing(
    nodes: list[LocalRabbitMQ], url_list: str, database_url: str, pool: Pool, connection: Connection
) -> None:
    first, second, third = nodes
    settings = worker_settings(url_list, database_url, rpc_queue_type="quorum")
    events = [run_created(orgId=ORGANISATION) for _ in range(EVENTS)]
    async with running_worker(settings, pool):
        await assert_led_by_all(nodes)
        async with Wire.connect(first.url) as wire:
            await until_serving(wire)
            await publish_all(wire, "run-created", events)
            await asyncio.to_thread(second.kill)
            await asyncio.to_thread(third.kill)
        await asyncio.to_thread(second.start)
        await until(lambda: serves(second))
        await until(lambda: all_stored(connection, [event["eventId"] for event in events]))


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
    events = [run_created(orgId=ORGANISATION) for _ in range(EVENTS)]
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


@asynccontextmanager
async def without_leader(nodes: list[LocalRabbitMQ]) -> AsyncIterator[None]:
    """Take the node away that leads all queues. Until the end of the block no other one leads them."""
    first, _, third = nodes
    os.kill(third.pid, signal.SIGSTOP)  # nobody notices that within a minute, and without it there is no majority
    try:
        await asyncio.to_thread(first.kill)
        yield
    finally:
        os.kill(third.pid, signal.SIGCONT)


async def test_a_client_that_was_refused_for_want_of_a_leader_is_served_when_there_is_one(
    nodes: list[LocalRabbitMQ], database_url: str, pool: Pool, tmp_path: Path
) -> None:
    """A call that was on its way before is answered as well, over the channel that is refused otherwise."""
    first, second, third = nodes
    await declare_on(first, QUORUM)
    claim_id = str(uuid4())

    async def is_exported() -> bool:
        with suppress(NoAnswer):
            return bool((await runs.check_claims(ORGANISATION, [claim_id])).exported)
        return False

    async def is_on_its_way() -> bool:
        queue = await wire.channel.declare_queue("export-runs.rpc.get-last-export", passive=True)
        return queue.declaration_result.message_count == 1

    async with (
        ExportRuns.connect(second.url, spool=tmp_path, timeout_s=ANSWER_S) as runs,
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(runs.call(GET_LAST_EXPORT, GetLastExport(org_id=ORGANISATION), WAIT_S))
        async with Wire.connect(second.url) as wire:
            await until(is_on_its_way)
        async with without_leader(nodes):
            async with runs.export(ORGANISATION, "alice", "csv", [claim_id], reserve=False) as export:
                await export.paying(claim_id)
                await export.exported(claim_id)
            with pytest.raises(NoAnswer, match=NO_LEADER):
                await runs.check_claims(ORGANISATION, [claim_id])
        async with running_worker(worker_settings(third.url, database_url, rpc_queue_type="quorum"), pool):
            await until(is_exported)
            await call


async def test_a_worker_that_was_refused_for_want_of_a_leader_publishes_when_there_is_one(
    nodes: list[LocalRabbitMQ], database_url: str
) -> None:
    first, second, _ = nodes
    await declare_on(first, QUORUM)
    losses: list[str] = []

    async def is_confirmed() -> bool:
        message = aio_pika.Message(b"{}", message_id=str(uuid4()))
        return await publisher.publish(names.DEAD_LETTER_EXCHANGE, "run-created", message, ANSWER_S)

    settings = worker_settings(second.url, database_url)
    async with (
        open_link(settings, "publishing", losses.append) as link,
        open_publisher(link, losses.append) as publisher,
    ):
        async with without_leader(nodes):
            assert not await is_confirmed()
        await until(is_confirmed)
        assert losses == []


class Callers:
    """A guard that checks and an exporter that exports, one claim after the other. Each repeats once what fails."""

    def __init__(self, runs: ExportRuns) -> None:
        self._runs = runs
        self._done = asyncio.Event()
        self.exported: list[str] = []
        self.checks = 0
        self.repeated: list[str] = []
        """Why a request was repeated."""

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work meanwhile. Raises what failed twice."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._check))
            tasks.create_task(self._repeat(self._export))
            try:
                yield
            finally:
                self._done.set()

    async def until_more(self) -> None:
        """Wait until more was answered, and more was exported, than was asked for by now."""
        checks, exports = self.checks + 2, len(self.exported) + 2
        await until(lambda: self.checks >= checks and len(self.exported) >= exports)

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self._done.is_set():
            try:
                await work()
            except ExportRunsError as error:
                self.repeated.append(str(error))
                await work()
            await asyncio.sleep(CALLER_PAUSE_S)

    async def _check(self) -> None:
        await self._runs.check_claims(ORGANISATION, [str(uuid4())])
        self.checks += 1

    async def _export(self) -> None:
        claim_id = str(uuid4())
        async with self._runs.export(ORGANISATION, "alice", "csv", [claim_id]) as export:
            await export.paying(claim_id)
            await export.exported(claim_id)
        self.exported.append(claim_id)


async def drained(node: LocalRabbitMQ) -> None:
    """Drain a node. RabbitMQ fails, and must be asked again, where a member of a queue does not run yet."""
    for tries_left in reversed(range(DRAIN_TRIES_MAX)):
        try:
            await rabbitmqctl(node, "drain", program="rabbitmq-upgrade")
            return
        except AssertionError:
            if not tries_left:
                raise


async def test_a_restart_of_one_node_after_the_other_fails_no_request(
    nodes: list[LocalRabbitMQ], url_list: str, database_url: str, pool: Pool, connection: Connection, tmp_path: Path
) -> None:
    settings = worker_settings(url_list, database_url, rpc_queue_type="quorum")
    async with (
        running_worker(settings, pool),
        ExportRuns.connect(*(node.url for node in nodes), spool=tmp_path, timeout_s=ANSWER_S) as runs,
    ):
        callers = Callers(runs)
        async with callers.working():
            for node in nodes:
                await rabbitmqctl(node, "await_online_quorum_plus_one", "-t", "60", program="rabbitmq-upgrade")
                await drained(node)
                await asyncio.to_thread(node.stop)
                await callers.until_more()
                await asyncio.to_thread(node.start)
            await callers.until_more()
    rows = await connection.fetch("SELECT claim_id, count(*) FROM export_run_claims GROUP BY claim_id")
    assert {row["claim_id"]: row["count"] for row in rows} == dict.fromkeys(callers.exported, 1)
