"""How many bytes of bodies a consumer holds.

A prefetch counts messages, not bytes: RabbitMQ does not implement `prefetch_size`. So a body that finds no room is not
kept: its frames are dropped as they arrive, and the delivery goes on without it. It stays unacknowledged, so nothing is
lost: whoever consumes gives it back when there is room, or refuses it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from aiormq.abc import DeliveredMessage

SMALL_BODY_BYTES_MAX: Final = 64 * 1024
"""A body up to this size always has room: the prefetch bounds their number. So small messages never wait for large."""


class BodyRoom:
    """The room that one consumer has for large bodies: so many bytes of those up to `body_bytes_max` together.

    Of oversized bodies, with more than `body_bytes_max`, it has room for one at a time, or for none.
    """

    def __init__(self, bytes_max: int, body_bytes_max: int, *, takes_oversized: bool) -> None:
        assert bytes_max >= body_bytes_max > SMALL_BODY_BYTES_MAX  # or a body might never have room
        self._body_bytes_max = body_bytes_max
        self._bytes_left = bytes_max
        self._oversized_left = 1 if takes_oversized else 0

    def take(self, size_bytes: int) -> bool:
        """Take room for a large body; returns whether there was room."""
        if size_bytes > self._body_bytes_max:
            if not self._oversized_left:
                return False
            self._oversized_left -= 1
        else:
            if size_bytes > self._bytes_left:
                return False
            self._bytes_left -= size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Give the room of a large body back."""
        if size_bytes > self._body_bytes_max:
            self._oversized_left += 1
        else:
            self._bytes_left += size_bytes

    def that_fit(self, deliveries: Iterable[DeliveredMessage]) -> list[DeliveredMessage]:
        """Those of some deliveries without their bodies for which there is room now, all at the same time."""
        fitting = [delivery for delivery in deliveries if self.take(delivery.header.body_size or 0)]
        for delivery in fitting:
            self.release(delivery.header.body_size or 0)
        return fitting


@dataclass(frozen=True)
class LargeDelivery(DeliveredMessage):
    """A delivery whose body takes room. Whoever settles it gives the room back."""

    room: BodyRoom


def has_body(delivery: DeliveredMessage) -> bool:
    """Whether a delivery came with its body. One that found no room did not."""
    return len(delivery.body) == delivery.header.body_size


def release_room(delivery: DeliveredMessage) -> None:
    """Give back the room that a delivery takes, if it takes any. Once, when it is settled."""
    if isinstance(delivery, LargeDelivery):
        delivery.room.release(len(delivery.body))
