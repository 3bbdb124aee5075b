"""Whatever address is answered, the connection that answers stays open, on whatever RabbitMQ these tests run."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import aio_pika
import pytest
from aiormq import spec
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.conftest import worker_settings
from tests.reply_addresses import NODE_HASHES, address, genuine_addresses, mutations
from tests.resilience.observing import Log
from worker.broker.deliveries import Delivery
from worker.broker.link import Link, open_link
from worker.limits import DEFAULT_LIMITS
from worker.requests.reply_addresses import ReplyAddress, UnusableReplyTo, read_reply_address
from worker.requests.reply_nodes import ReplyNodes, decodes_all_addresses
from worker.settings import WorkerSettings

SETTLED_S = 60


class Answering:
    """A connection that answers, and what tells it where it may."""

    def __init__(self, settings: WorkerSettings, link: Link) -> None:
        limits = replace(DEFAULT_LIMITS, reply_node_pause_s=0, reply_node_refused_s=60)
        self.nodes = ReplyNodes(settings, open_link, limits)
        self.link = link

    async def answer(self, reply_to: str) -> bool:
        """Answer where that is allowed; whether it is. The connection must stay open."""
        try:
            address = read_reply_address(reply_to, ("reply.",))
        except UnusableReplyTo:
            return False
        if not await self.nodes.find(address):
            return False
        async with asyncio.timeout(SETTLED_S):
            await self.link.underlay.basic_publish(b"answer", routing_key=reply_to)
            await self.link.underlay.basic_qos(prefetch_count=1)
        return True


@pytest.fixture
def settings(amqp_url: str) -> WorkerSettings:
    """No database is needed here."""
    return worker_settings(amqp_url, "postgresql://nowhere")


@pytest.fixture
async def answering(settings: WorkerSettings) -> AsyncIterator[Answering]:
    """A connection that answers."""
    async with open_link(settings, "a server", lambda reason: None) as link:
        yield Answering(settings, link)


class Client:
    """A client with a direct reply-to address."""

    def __init__(self, link: Link, reply_to: str) -> None:
        self.link = link
        self.reply_to = reply_to
        self.answers: asyncio.Queue[Delivery] = asyncio.Queue()


async def client(stack: AsyncExitStack, settings: WorkerSettings) -> Client:
    """Connect, and find out what address RabbitMQ gives it."""
    link = await stack.enter_async_context(open_link(settings, "a client", lambda reason: None))
    made = Client(link, "")
    await link.underlay.basic_consume("amq.rabbitmq.reply-to", made.answers.put, no_ack=True)
    queue = await link.underlay.queue_declare(exclusive=True)
    assert queue.queue is not None
    asking = spec.Basic.Properties(reply_to="amq.rabbitmq.reply-to")
    await link.underlay.basic_publish(b"", routing_key=queue.queue, properties=asking)
    request = await link.underlay.basic_get(queue.queue, no_ack=True)
    assert request.header.properties.reply_to is not None
    made.reply_to = request.header.properties.reply_to
    return made


async def test_genuine_addresses_are_answered(settings: WorkerSettings, answering: Answering) -> None:
    """Of many channels and connections; the node is tried once."""
    async with AsyncExitStack() as stack:
        clients = [await client(stack, settings) for _ in range(10)]
        for each in clients:
            assert await answering.answer(each.reply_to)
            answer = await asyncio.wait_for(each.answers.get(), SETTLED_S)
            assert answer.body == b"answer"
            assert each.answers.empty()
    for each in clients:  # whose owners are gone
        assert await answering.answer(each.reply_to)


async def test_forged_addresses_harm_nobody(settings: WorkerSettings, answering: Answering) -> None:
    """Made by RabbitMQ's grammar or changed from genuine ones; on its own node or on one that does not run."""
    async with AsyncExitStack() as stack:
        genuine = [await client(stack, settings) for _ in range(3)]
        own_node = read_reply_address(genuine[0].reply_to, ()).node_hash
        assert own_node is not None
        loop = asyncio.get_running_loop()
        nodes = st.one_of(st.just(own_node), st.sampled_from([0, 1, NODE_HASHES - 1, own_node ^ 1]))
        numbers = base64.b64decode(genuine[0].reply_to.split(".")[3])[-12:]
        by_grammar = genuine_addresses(nodes, own_numbers=numbers).map(lambda made: made[1])
        by_change = st.builds(
            mutations,
            st.sampled_from([each.reply_to for each in genuine]),
            st.randoms(use_true_random=False),
        )
        answered = 0

        @hypothesis_settings(
            max_examples=1_000,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.one_of(by_grammar, by_change))
        def fuzz(reply_to: str) -> None:
            nonlocal answered
            assert not answering.link.underlay.is_closed, "by the one before"
            sent = asyncio.run_coroutine_threadsafe(answering.answer(reply_to), loop)
            answered += sent.result()

        await asyncio.to_thread(fuzz)
        assert answered > 50
        assert not answering.link.underlay.is_closed
        for each in genuine:
            while not each.answers.empty():
                each.answers.get_nowait()
            assert await answering.answer(each.reply_to)
            assert (await asyncio.wait_for(each.answers.get(), SETTLED_S)).body == b"answer"


async def test_the_numbers_of_a_process_at_their_edges(settings: WorkerSettings, answering: Answering) -> None:
    """With the creation of the broker's own processes it looks at the others."""
    async with AsyncExitStack() as stack:
        reply_to = (await client(stack, settings)).reply_to
    own_node = read_reply_address(reply_to, ()).node_hash
    assert own_node is not None
    creation = base64.b64decode(reply_to.split(".")[3])[-4:]
    for number in (0, 1, 2**13 - 1, 2**13, 2**15 - 1, 2**15, 2**28 - 1, 2**28, 2**31, 2**32 - 1):
        for numbers in (number.to_bytes(4, "big") + bytes(4), bytes(4) + number.to_bytes(4, "big")):
            await answering.answer(address(node=b"reply@%d" % own_node, numbers=numbers + creation))
            await answering.answer(address(node=b"reply@%d" % own_node, numbers=numbers + bytes(4)))
    assert not answering.link.underlay.is_closed


async def test_an_unknown_node_is_tried_once(answering: Answering, log: Log) -> None:
    """However many ask from it at a time, and soon after."""
    unknown = address(node=b"reply@12345")
    first = await asyncio.gather(*(answering.answer(unknown) for _ in range(20)))
    second = [await answering.answer(unknown) for _ in range(20)]
    assert len({*first, *second}) == 1
    assert len(log.of("reply_node_unknown")) == (0 if first[0] else 1)


async def test_whoever_invents_nodes_fills_no_memory(settings: WorkerSettings, answering: Answering) -> None:
    limits = replace(DEFAULT_LIMITS, reply_nodes_max=3, reply_node_trials_max=2, reply_node_pause_s=0)
    nodes = ReplyNodes(settings, open_link, limits)
    addresses = [ReplyAddress(node_hash, True) for node_hash in range(10)]
    found = await asyncio.gather(*(nodes.find(each) for each in addresses))
    assert found[2:] == [False] * 8, "more in question at a time are refused"
    for each in addresses:
        await nodes.find(each)
    assert len(nodes._known) <= 3
    assert len(nodes._refused_until) <= 3
    assert nodes._trials == {}


async def test_a_broker_that_cannot_be_asked_refuses_nobody(settings: WorkerSettings) -> None:
    """It is not the node's fault."""
    away = settings.model_copy(update={"amqp_url": type(settings.amqp_url)("amqp://guest:guest@127.0.0.1:1/")})
    nodes = ReplyNodes(away, open_link, replace(DEFAULT_LIMITS, reply_node_pause_s=0))
    with pytest.raises((aio_pika.exceptions.AMQPError, OSError)):
        await nodes.find(ReplyAddress(12345, True))
    assert nodes._trials == {}
    nodes._settings = settings
    assert await nodes.find(ReplyAddress(12345, True)) in (True, False)


@pytest.mark.parametrize(
    ("version", "decodes_all"),
    [
        ("3.9.26", False),
        ("3.9.27", True),
        ("3.10.0", False),
        ("3.10.8", False),
        ("3.10.11", False),
        ("3.10.12", True),
        ("3.10.25", True),
        ("3.11.3", False),
        ("3.11.4", True),
        ("3.8.34", False),
        ("3.12.0", True),
        ("3.13.7", True),
        ("4.0.5", True),
        ("4.3.5+1.gabcdef", True),
        ("10.0.0", True),
        ("unknown", True),
        (None, True),
    ],
)
def test_which_versions_need_no_trial(version: str | None, decodes_all: bool) -> None:
    assert decodes_all_addresses(version) is decodes_all
