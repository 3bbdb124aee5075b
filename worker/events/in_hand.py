"""The events that a consumer holds: received and not settled yet."""

import asyncio
from collections.abc import Iterable

from worker.broker import messages
from worker.broker.deliveries import Delivery
from worker.broker.link import Link


class EventsInHand:
    """Knows since when each event is held. Whoever settles an event does it here."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._received_at_s: dict[int | None, float] = {}
        """By delivery tag, the oldest first. Times are the event loop's, in seconds."""

    def receive(self, delivery: Delivery) -> None:
        """Note that an event has come."""
        self._received_at_s[delivery.delivery_tag] = asyncio.get_running_loop().time()

    @property
    def oldest_s(self) -> float:
        """For how long the oldest event is held, in seconds; 0 where there is none."""
        received_at_s = next(iter(self._received_at_s.values()), None)
        return 0.0 if received_at_s is None else asyncio.get_running_loop().time() - received_at_s

    def longest_s(self, deliveries: Iterable[Delivery]) -> float:
        """For how long the oldest of these events is held, in seconds. There must be one."""
        received_at_s = min(self._received_at_s[delivery.delivery_tag] for delivery in deliveries)
        return asyncio.get_running_loop().time() - received_at_s

    async def ack(self, *deliveries: Delivery) -> None:
        """Acknowledge events."""
        self._forget(deliveries)
        await messages.ack(self._link, *deliveries)

    async def requeue(self, delivery: Delivery) -> None:
        """Give an event back that failed."""
        self._forget([delivery])
        await messages.requeue(self._link, delivery)

    async def give_back(self, delivery: Delivery) -> None:
        """Give an event back that is not to blame."""
        self._forget([delivery])
        await messages.give_back(self._link, delivery)

    def _forget(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            del self._received_at_s[delivery.delivery_tag]
