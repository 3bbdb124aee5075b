"""The events that a worker holds and has not begun to store: which writer stores them, and which make one batch."""

import asyncio
import re
import zlib
from collections import deque
from typing import Final

from worker.broker.deliveries import Delivery
from worker.broker.messages import deliveries_before

_ORGANISATION: Final = re.compile(rb'"orgId"\s*:\s*"([^"]*)"')
_ORGANISATION_WITHIN_BYTES: Final = 4_096


def queue_number(body: bytes, queues: int) -> int:
    """Which of several queues an event belongs into: those of one organisation into one, as a rule.

    The claims of an organisation share locks. Two writers that store its events at one time would wait for each other;
    with a queue for each writer they do not. It is only about speed, so it does not decode the body: the organisation
    is read where it stands near the start, as a text without escapes.
    """
    found = _ORGANISATION.search(body, 0, _ORGANISATION_WITHIN_BYTES)
    return zlib.crc32(found[1]) % queues if found else 0


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
