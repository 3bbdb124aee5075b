"""Several URLs of one RabbitMQ, or a name with several addresses: a worker uses whichever it can connect to."""

import socket

import pytest

from tests.chaos.proxy import Proxy
from tests.conftest import running_worker, worker_settings
from tests.resilience.conftest import opened, through
from tests.resilience.connecting import Connect, addresses_of_a_name, command_connection, worker_connection
from tests.resilience.observing import Log, until_serving
from tests.wire import Wire
from worker.database.pool import Pool

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"


@pytest.mark.parametrize("template", ["{},{}", "{1},{0}", "{1},{1},{0},{1}"], ids=["both sound", "second", "third"])
async def test_a_worker_uses_the_url_that_answers(
    amqp_url: str, database_url: str, pool: Pool, wire: Wire, log: Log, template: str
) -> None:
    urls = template.replace("{},{}", "{0},{0}").format(amqp_url, NOWHERE)
    async with running_worker(worker_settings(urls, database_url), pool):
        await until_serving(wire)
    assert {(line["host"], line["port"]) for line in log.of("broker_node_skipped")} <= {("127.0.0.1", 1)}
    assert log.of("session_lost") == []


async def test_a_worker_goes_on_by_another_url(
    amqp_url: str, database_url: str, pool: Pool, wire: Wire, log: Log
) -> None:
    """The node to which it is connected goes away; then that one comes back, and the other goes."""
    async with opened(amqp_url, Proxy) as one, opened(amqp_url, Proxy) as other:
        urls = ",".join(through(amqp_url, proxy) for proxy in (one, other))
        async with running_worker(worker_settings(urls, database_url), pool):
            await until_serving(wire)
            async with one.cut():
                await until_serving(wire)
                assert other.connections
            async with other.cut():
                await until_serving(wire)
                assert one.connections


CONNECT_TIMEOUT_S = 4


@pytest.mark.parametrize("connect", [worker_connection, command_connection])
async def test_each_address_of_a_name_is_tried(
    amqp_url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refuses, and one takes connections and says nothing, like a machine that hangs."""
    async with opened(amqp_url, Proxy) as proxy:
        with socket.create_server(("127.0.0.3", proxy.port)):
            found = addresses_of_a_name("rabbit.test", "127.0.0.2", "127.0.0.3", "127.0.0.1")
            monkeypatch.setattr(socket, "getaddrinfo", found)
            url = through(amqp_url, proxy).replace("127.0.0.1", "rabbit.test")
            settings = worker_settings(url, "postgresql://nowhere", connect_timeout_s=CONNECT_TIMEOUT_S)
            async with connect(settings):
                assert proxy.connections == 1
