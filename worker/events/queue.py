"""The events that a worker holds and has not begun to store. It decides which of them make one batch."""

import asyncio
from collections import deque

from worker.broker.deliveries import Delivery
from worker.broker.messages import deliveries_before


class EventQueue:
    """Deliveries of one event type, in the order of their arrival. The prefetch of their consumer bounds their number.

    An event that was delivered `suspect_deliveries_min` times before is a suspect: it may be what broke its workers.
    """

    def __init__(self, suspect_deliveries_min: int) -> None:
        self._suspect_deliveries_min = suspect_deliveries_min
        self._deliveries: deque[Delivery] = deque()
        self._change = asyncio.Event()
        self.is_closed = False

    def put(self, delivery: Delivery) -> None:
        """Add a delivery."""
        self._deliveries.append(delivery)
        self._change.set()

    async def take(self, events_max: int, bytes_max: int) -> list[Delivery]:
        """Wait for a delivery; take it and those behind it, up to both bounds. Empty: closed, and all are taken.

        At least one is taken, however large. A suspect is taken alone, so that it harms no other event.
        """
        while not self._deliveries:
            if self.is_closed:
                return []
            self._change.clear()
            await self._change.wait()
        batch = [self._deliveries.popleft()]
        size_bytes = len(batch[0].body)
        while self._deliveries and len(batch) < events_max:
            following = self._deliveries[0]
            if self.is_suspect(batch[0]) or self.is_suspect(following) or size_bytes + len(following.body) > bytes_max:
                break
            batch.append(self._deliveries.popleft())
            size_bytes += len(following.body)
        return batch

    def close(self) -> None:
        """Say that no more deliveries will be put."""
        self.is_closed = True
        self._change.set()

    def is_suspect(self, delivery: Delivery) -> bool:
        """Whether a delivery may be what broke its workers."""
        return deliveries_before(delivery) >= self._suspect_deliveries_min
