"""The connection of the client is cut, frozen, and refused."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable

import aio_pika
import pytest
from yarl import URL

from export_runs_client import AccessRefused, ConnectionLost, ExportRuns, NoAnswer
from export_runs_client.links import broker_errors, open_link
from local.processes import free_ports
from local.services import LocalRabbitMQ
from tests.chaos.proxy import Proxy
from tests.conftest import running_worker
from tests.resilience.conftest import opened, through
from tests.resilience.observing import rabbitmqctl, until
from tests.wire import WAIT_S, Wire
from worker.database.pool import Pool
from worker.settings import WorkerSettings

SECRET = "Secr3t"
CHANNELS = 50


@pytest.fixture
async def unanswered(settings: WorkerSettings, pool: Pool, wire: Wire) -> Wire:
    """A client of the contract on queues that no worker consumes now."""
    async with running_worker(settings, pool):
        await wire.ready()
    return wire


@pytest.fixture
async def runs(amqp_url: str, broker_proxy: Proxy) -> AsyncIterator[ExportRuns]:
    """The client, on a wire that can be cut."""
    async with ExportRuns.connect(through(amqp_url, broker_proxy), timeout_s=WAIT_S) as runs:
        yield runs


async def test_a_call_in_flight_is_sent_again_on_the_next_connection(
    runs: ExportRuns, unanswered: Wire, broker_proxy: Proxy, settings: WorkerSettings, pool: Pool
) -> None:
    check = asyncio.create_task(runs.check_claims("acme", ["taxi-17"]))
    await unanswered.take_from("export-runs.rpc.check-claims")
    async with broker_proxy.cut():
        pass
    async with running_worker(settings, pool):
        assert (await check).unexported == ["taxi-17"]


async def test_a_call_in_flight_that_is_not_safe_to_repeat_fails_at_once(
    runs: ExportRuns, unanswered: Wire, broker_proxy: Proxy
) -> None:
    resolve = asyncio.create_task(runs.resolve_double_export("acme", "taxi-17", "bob", "the money came back"))
    await unanswered.take_from("export-runs.rpc.resolve-double-export")
    async with broker_proxy.cut():
        with pytest.raises(ConnectionLost, match="resolve-double-export: "):
            await resolve


async def test_a_call_waits_for_the_next_connection(
    runs: ExportRuns, unanswered: Wire, broker_proxy: Proxy, settings: WorkerSettings, pool: Pool
) -> None:
    async with running_worker(settings, pool):
        assert (await runs.check_claims("acme", ["taxi-17"])).unexported == ["taxi-17"]
        async with broker_proxy.cut():
            check = asyncio.create_task(runs.check_claims("acme", ["taxi-17"]))
            await asyncio.sleep(0)
        assert (await check).unexported == ["taxi-17"]


async def test_a_call_on_a_frozen_connection_ends_with_its_time_out(
    amqp_url: str, unanswered: Wire, broker_proxy: Proxy
) -> None:
    async with ExportRuns.connect(through(amqp_url, broker_proxy), timeout_s=0.5) as runs:

        async def is_connected() -> bool:
            with pytest.raises(NoAnswer, match="no answer within") as raised:
                await runs.check_claims("acme", ["taxi-17"])
            return "is a worker running" in str(raised.value)

        await until(is_connected)
        async with broker_proxy.frozen():
            with pytest.raises(NoAnswer, match=r"no answer within 0\.5 s: RabbitMQ has not taken the request"):
                await runs.check_claims("acme", ["taxi-17"])


async def test_a_channel_that_another_replaced_leaves_nothing(amqp_url: str) -> None:
    """A queue that stays full has a publisher open a channel a second, for as long as the connection lasts."""
    async with open_link(amqp_url, "test", None) as link:

        async def objects_after_channels(channels: int) -> int:
            """How many objects there are when so many channels took the place of another."""
            for _ in range(channels):
                await link._requests.open()
            await until(lambda: not link._requests._tasks)
            gc.collect()
            return len(gc.get_objects())

        before = await objects_after_channels(CHANNELS)
        assert await objects_after_channels(CHANNELS) < before + CHANNELS
        assert not link.lost.done()


async def test_no_answer_says_why_there_is_no_connection() -> None:
    (port,) = free_ports(1)
    async with ExportRuns.connect(f"amqp://guest:guest@127.0.0.1:{port}/", timeout_s=1) as runs:
        with pytest.raises(NoAnswer, match=r"connect: .*Connect"):
            await runs.check_claims("acme", ["taxi-17"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda url: url.with_password(SECRET), "does not accept the user name and password"),
        (lambda url: url.with_user("stranger"), "does not accept the user name and password"),
        (lambda url: url.with_path("/nowhere"), "NOT_ALLOWED - vhost nowhere not found"),
        (lambda url: url.with_query(auth="external"), "the authentication mechanism"),
    ],
    ids=["password", "user", "virtual host", "mechanism"],
)
async def test_a_refusal_is_raised_at_once(amqp_url: str, change: Callable[[URL], URL], sentence: str) -> None:
    url = str(change(URL(amqp_url)))
    async with ExportRuns.connect(url, timeout_s=10 * WAIT_S) as runs, asyncio.timeout(WAIT_S):
        for _ in range(2):
            with pytest.raises(AccessRefused, match=sentence) as refused:
                await runs.check_claims("acme", ["taxi-17"])
            assert SECRET not in str(refused.value)


@pytest.mark.usefixtures("worker")
async def test_a_node_that_refuses_keeps_nobody_from_the_next(amqp_url: str) -> None:
    refusing = str(URL(amqp_url).with_password(SECRET))
    async with ExportRuns.connect(refusing, amqp_url, timeout_s=WAIT_S) as runs:
        assert (await runs.check_claims("acme", ["taxi-17"])).unexported == ["taxi-17"]


async def test_a_user_that_is_mended_is_let_in_without_a_restart(broker_server: LocalRabbitMQ) -> None:
    url = str(URL(broker_server.url).with_user("newcomer").with_password(SECRET))

    async def is_refused(runs: ExportRuns) -> bool:
        with pytest.raises(NoAnswer) as unanswered:  # no worker is there
            await runs.check_claims("acme", ["taxi-17"])
        return isinstance(unanswered.value, AccessRefused)

    await rabbitmqctl(broker_server, "await_startup")  # it listens before it takes commands
    async with ExportRuns.connect(url, timeout_s=1) as runs, asyncio.timeout(WAIT_S):
        assert await is_refused(runs)
        await rabbitmqctl(broker_server, "add_user", "newcomer", SECRET)
        await rabbitmqctl(broker_server, "set_permissions", "newcomer", ".*", ".*", ".*")
        while await is_refused(runs):
            await asyncio.sleep(0.1)


@pytest.mark.usefixtures("worker")
async def test_the_next_url_is_tried(amqp_url: str) -> None:
    (port,) = free_ports(1)
    async with (
        opened(amqp_url, Proxy) as second,
        ExportRuns.connect(
            f"amqp://guest:guest@127.0.0.1:{port}/", through(amqp_url, second), amqp_url, timeout_s=WAIT_S
        ) as runs,
    ):
        assert (await runs.check_claims("acme", ["taxi-17"])).unexported == ["taxi-17"]
        second.close()
        assert (await runs.check_claims("acme", ["taxi-17"])).unexported == ["taxi-17"]


@pytest.mark.parametrize("urls", [(), ("http://127.0.0.1",), ("amqp://127.0.0.1", "127.0.0.1")])
async def test_a_url_must_be_one_of_amqp(urls: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="URL"):
        async with ExportRuns.connect(*urls):
            pass


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), aio_pika.exceptions.AMQPError()])
async def test_a_cancellation_that_meets_an_error_is_not_lost(error: Exception) -> None:
    """aiormq may raise an error in place of the cancellation."""

    async def connect() -> None:
        with broker_errors("connect"):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise error from None

    connecting = asyncio.create_task(connect())
    await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait({connecting})
    assert connecting.cancelled()
