"""Where deliveries wait for the one who works on them."""

import asyncio
from collections import deque
from typing import Final

from worker.amqp import Delivery, deliveries_before

SUSPECT_DELIVERIES: Final = 10
"""Lost connections are the world's doing, and send hundreds of innocents back at once. What comes back for the tenth
time, of the 50 that RabbitMQ allows, may be what broke them.
"""


def is_suspect(delivery: Delivery) -> bool:
    """Whether a delivery may be what brought a worker down."""
    return deliveries_before(delivery) >= SUSPECT_DELIVERIES


class Inbox:
    """Deliveries in the order in which they came. The prefetch of their consumer bounds their number."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._changed = asyncio.Event()
        self.closed = False

    def put(self, delivery: Delivery) -> None:
        """Add a delivery."""
        self._waiting.append(delivery)
        self._changed.set()

    def close(self) -> None:
        """Say that no more deliveries will come."""
        self.closed = True
        self._changed.set()

    async def take(self, deliveries_max: int, bytes_max: int) -> list[Delivery]:
        """Wait for a delivery; take what waits with it, up to both bounds. Empty: closed, and all taken.

        At least one is taken, however large. A suspect comes alone: if it is what brought a worker down, it
        brings nobody with it.
        """
        while not self._waiting:
            if self.closed:
                return []
            self._changed.clear()
            await self._changed.wait()
        batch = [self._waiting.popleft()]
        size = len(batch[0].body)
        while (
            self._waiting
            and not (is_suspect(batch[0]) or is_suspect(self._waiting[0]))
            and len(batch) < deliveries_max
            and size + len(self._waiting[0].body) <= bytes_max
        ):
            batch.append(self._waiting.popleft())
            size += len(batch[-1].body)
        return batch
