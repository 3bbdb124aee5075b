"""The requests that a worker holds and has not begun to answer. It decides which of them share a query."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from worker.broker.deliveries import Delivery


@dataclass(frozen=True, slots=True, eq=False)
class PendingRequest:
    """A request without an answer, and how long its caller waits, by the event loop's clock."""

    delivery: Delivery
    request: Any
    claims: int
    """How many claims it names."""

    arrived_at_s: float

    expires_at_s: float
    """When it is answered with UNAVAILABLE, so that its caller hears that in time."""

    given_up_at_s: float
    """When its caller no longer waits."""


class RequestQueue:
    """Requests of one operation, in the order of their arrival. The prefetch of their consumer bounds their number.

    A request that names more than `claims_max` claims is large. Large requests have a line of their own: each is
    taken alone, and no more than `large_max` are worked on at once, so that they never hold up the small ones.
    """

    def __init__(self, claims_max: int, large_max: int) -> None:
        self._claims_max = claims_max
        self._small: deque[PendingRequest] = deque()
        self._large: deque[PendingRequest] = deque()
        self._large_left = large_max
        self._change = asyncio.Event()
        self.is_closed = False

    def put(self, request: PendingRequest) -> None:
        """Add a request."""
        self._line_of(request).append(request)
        self._change.set()

    async def take(self) -> list[PendingRequest]:
        """Wait for a request; take it and those that share its query. Empty: closed, and all are taken.

        Whoever takes requests must `release` them when their query has ended.
        """
        while True:
            if self._large and self._large_left:
                self._large_left -= 1
                return [self._large.popleft()]
            if self._small:
                return self._take_small()
            if self.is_closed and not self._large:
                return []
            self._change.clear()
            await self._change.wait()

    def release(self, requests: list[PendingRequest]) -> None:
        """Say that the query of requests that were taken has ended."""
        if self._is_large(requests[0]):
            self._large_left += 1
            self._change.set()

    def remove(self, request: PendingRequest) -> None:
        """Take a request out, if it is still here. Those that expire are mostly the first in line."""
        with suppress(ValueError):
            self._line_of(request).remove(request)
        self._change.set()

    def close(self) -> None:
        """Say that no more requests will be put."""
        self.is_closed = True
        self._change.set()

    def _is_large(self, request: PendingRequest) -> bool:
        return request.claims > self._claims_max

    def _line_of(self, request: PendingRequest) -> deque[PendingRequest]:
        return self._large if self._is_large(request) else self._small

    def _take_small(self) -> list[PendingRequest]:
        requests = [self._small.popleft()]
        claims = requests[0].claims
        while self._small and claims + self._small[0].claims <= self._claims_max:
            requests.append(self._small.popleft())
            claims += requests[-1].claims
        return requests
