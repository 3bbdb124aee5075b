"""Where requests wait for a query, and which of them share one."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from worker.amqp import Delivery

QUERY_SIZE_MAX: Final = 1_000
"""Requests share a query as long as their sizes add up to no more; past that, sharing saves nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request whose caller waits until shortly after `expires_at`, by the clock of the event loop."""

    delivery: Delivery
    request: Any
    size: int
    """How much of a query it fills."""

    expires_at: float

    @property
    def is_large(self) -> bool:
        """Whether it fills more than a query that is shared may hold."""
        return self.size > QUERY_SIZE_MAX


class Waiting:
    """Requests of one operation, in the order in which they came. The prefetch of their queue bounds their number.

    Large ones stand in a line of their own. Only so many of them are worked on at once, each alone, so that they
    never hold up the small ones.
    """

    def __init__(self, large_max: int) -> None:
        self._small: deque[Asked] = deque()
        self._large: deque[Asked] = deque()
        self._large_left = large_max
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, asked: Asked) -> None:
        """Add a request."""
        (self._large if asked.is_large else self._small).append(asked)
        self._changed.set()

    def close(self) -> None:
        """Say that no more requests will come."""
        self._closed = True
        self._changed.set()

    async def take(self) -> list[Asked]:
        """Wait for a request; take those that share its query. Empty: closed, and all taken."""
        while True:
            if self._large and self._large_left:
                self._large_left -= 1
                return [self._large.popleft()]
            if self._small:
                return self._take_small()
            if self._closed and not self._large:
                return []
            self._changed.clear()
            await self._changed.wait()

    def drop(self, asked: Asked) -> None:
        """Take a request out of the line, if it is still there. Those that expire stand in front, mostly."""
        with suppress(ValueError):
            (self._large if asked.is_large else self._small).remove(asked)
        self._changed.set()

    def done(self, together: list[Asked]) -> None:
        """Say that the query of what was taken is over."""
        if together[0].is_large:
            self._large_left += 1
            self._changed.set()

    def _take_small(self) -> list[Asked]:
        together = [self._small.popleft()]
        size = together[0].size
        while self._small and size + self._small[0].size <= QUERY_SIZE_MAX:
            together.append(self._small.popleft())
            size += together[-1].size
        return together
