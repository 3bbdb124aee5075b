"""Two nodes of a cluster no longer reach each other. Both reach the third, and clients reach all of them."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from local.network import Network, network
from local.processes import ServiceError
from local.rabbitmq import LocalRabbitMQ
from sql.connection import Connection
from tests.cluster import HOSTS, cluster, resume
from tests.conftest import running_worker, worker_settings
from tests.resilience.clients import all_stored, publishing, serves
from tests.resilience.observing import until, until_serving
from tests.wire import Wire
from worker.database.pool import Pool

EVENTS = 200
CUT_S = 10
"""The nodes notice after 3 to 5 s."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Network]:
    """A network with a host for each node."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(network(HOSTS))
        except ServiceError as problem:
            pytest.skip(str(problem))


@pytest.fixture(scope="module")
def nodes(hosts: Network) -> Iterator[list[LocalRabbitMQ]]:
    """The nodes, each on its host."""
    with cluster(hosts) as servers:
        yield servers


async def test_what_was_confirmed_before_and_while_two_nodes_were_parted_is_stored(
    nodes: list[LocalRabbitMQ], hosts: Network, database_url: str, pool: Pool, connection: Connection
) -> None:
    url_list = ",".join(node.url for node in nodes)
    third = nodes[-1]
    confirmed: list[str] = []
    async with running_worker(worker_settings(url_list, database_url, rpc_queue_type="quorum"), pool):
        async with Wire.connect(third.url) as exporter:
            await until_serving(exporter)
            async with publishing(exporter, confirmed):
                await until(lambda: len(confirmed) > EVENTS)
                with hosts.cut(*hosts.hosts[:2]):
                    await asyncio.sleep(CUT_S)
        for node in nodes:
            await asyncio.to_thread(resume, node)
            await until(partial(serves, node))
        await until(lambda: all_stored(connection, confirmed))
