"""What RabbitMQ says of its queues to whoever may use them, without its management plugin."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from aio_pika.exceptions import ChannelNotFoundEntity

from worker.broker.link import CALL_TIMEOUT_S, Link, open_channel


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue at one moment."""

    messages: int
    """Those that wait; what a consumer holds is not among them."""

    consumers: int


async def queue_states(link: Link, queues: Iterable[str]) -> dict[str, QueueState | None]:
    """The state of each queue; None of one that is missing. Raises one of CONNECTION_ERRORS; a TimeoutError after
    CALL_TIMEOUT_S.

    On channels of its own: a queue that is missing closes the channel.
    """
    looking = asyncio.create_task(_look_up(link, queues))
    looking.add_done_callback(lambda task: task.cancelled() or task.exception())
    # Not asyncio.timeout: on a connection that is frozen, closing the channel would wait on.
    try:
        done, _ = await asyncio.wait({looking}, timeout=CALL_TIMEOUT_S)
    finally:
        looking.cancel()
    if not done:
        raise TimeoutError("RabbitMQ does not say how its queues are")
    return looking.result()


async def _look_up(link: Link, queues: Iterable[str]) -> dict[str, QueueState | None]:
    states: dict[str, QueueState | None] = {}
    channel = await open_channel(link.underlay.connection, confirms=False)
    try:
        for queue in queues:
            try:
                declared = await channel.queue_declare(queue, passive=True)
                states[queue] = QueueState(declared.message_count or 0, declared.consumer_count or 0)
            except ChannelNotFoundEntity:
                states[queue] = None
                channel = await open_channel(link.underlay.connection, confirms=False)
    finally:
        if not channel.is_closed:
            await channel.close()
    return states
