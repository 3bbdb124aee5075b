"""What RabbitMQ keeps when some deliveries of a channel are settled, in any order, and the connection ends."""

import asyncio
from random import Random
from uuid import uuid4

import aio_pika
import pytest

from tests.resilience.observing import RECOVERY_S
from tests.wire import Wire
from worker.broker.deliveries import Delivery
from worker.broker.link import flush, open_link, start_consuming
from worker.broker.messages import ack, give_back, requeue
from worker.settings import WorkerSettings

DELIVERIES = 40
BATCH_MAX = 8


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_in_hand_is_settled(settings: WorkerSettings, wire: Wire, seed: int) -> None:
    """Deliveries are acknowledged in batches, or given back, by chance. The last ones stay in hand."""
    chance = Random(seed)
    queue = await wire.channel.declare_queue(
        f"settling.{uuid4().hex}", durable=True, arguments={"x-queue-type": "quorum"}
    )
    bodies = [b"%d" % number for number in range(DELIVERIES)]
    for body in bodies:
        await wire.channel.default_exchange.publish(aio_pika.Message(body), queue.name)
    taken: asyncio.Queue[Delivery] = asyncio.Queue()
    kept = set(bodies)
    async with open_link(settings, "a test", lambda reason: None) as link:
        await start_consuming(link, queue.name, DELIVERIES, taken.put_nowait)
        first = [await asyncio.wait_for(taken.get(), RECOVERY_S) for _ in range(DELIVERIES)]
        assert [delivery.body for delivery in first] == bodies
        chance.shuffle(first)
        in_hand = first[DELIVERIES // 4 :]
        while in_hand:
            batch, in_hand = in_hand[: (size := chance.randint(1, BATCH_MAX))], in_hand[size:]
            if chance.random() < 0.7:
                await ack(link, *sorted(batch, key=lambda delivery: delivery.delivery_tag or 0))
                kept -= {delivery.body for delivery in batch}
            else:
                settle = chance.choice([requeue, give_back])
                for delivery in batch:
                    await settle(link, delivery)
        await flush(link)
        assert not link.underlay.is_closed
    left = [(await wire.take_from(queue.name)).body for _ in kept]
    assert sorted(left) == sorted(kept)
    assert (await wire.channel.declare_queue(queue.name, passive=True)).declaration_result.message_count == 0
    await queue.delete(if_unused=False, if_empty=False)
