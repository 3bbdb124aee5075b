"""The lease of an export: reserved, renewed at a third of its time, not trusted past two thirds."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from .errors import InternalError, LeaseLost, NoAnswer, RequestFailed, Unavailable
from .schema.results import ReservedClaims

RENEW_AT: Final = 1 / 3
TRUST_UNTIL: Final = 2 / 3
LOOK_EVERY: Final = 1 / 30
"""Parts of the time of a lease: when it is renewed, until when it is trusted, and how often the clock is looked at."""

NOBODY_KNOWS: Final = (NoAnswer, Unavailable, InternalError)
"""After one of these a renewal is tried again."""

Renewal = Callable[[float], Awaitable[ReservedClaims]]
"""Reserves the claims once more and waits at most so many seconds for the answer."""

log = logging.getLogger("export_runs_client")


class Lease:
    """What a run was granted, for `lease_s` seconds from a moment after `asked_at_s` on."""

    def __init__(self, reserved: ReservedClaims, asked_at_s: float, lease_s: float) -> None:
        self._lease_s = lease_s
        self._fencing_token = reserved.fencing_token
        self._trusted_until_s = asked_at_s + lease_s * TRUST_UNTIL
        self._loss = ""

    def check(self) -> None:
        """Raises LeaseLost if two thirds of the lease are over, or another run holds a claim of it."""
        if not self._loss and clock_s() >= self._trusted_until_s:
            self._loss = "two thirds of the lease are over, and it could not be renewed"
        if self._loss:
            raise LeaseLost(self._loss)

    @asynccontextmanager
    async def kept(self, renew: Renewal) -> AsyncIterator[None]:
        """Renew the lease until the end of the block. If it is lost, cancel the block and raise LeaseLost."""
        block = asyncio.current_task()
        assert block is not None
        cancelling = block.cancelling()
        cancelled = False

        async def keep() -> None:
            nonlocal cancelled
            await self._keep(renew)
            cancelled = block.cancel()

        keeping = asyncio.create_task(keep())
        is_ours = False
        try:
            try:
                yield
            finally:
                keeping.cancel()
                await asyncio.wait({keeping})
                is_ours = cancelled and block.uncancel() <= cancelling
        except asyncio.CancelledError as error:
            if is_ours:
                raise LeaseLost(self._loss) from error
            raise
        if self._loss:
            raise LeaseLost(self._loss)

    async def _keep(self, renew: Renewal) -> None:
        """Renew again and again; returns when the lease is lost."""
        renew_at_s = clock_s() + self._lease_s * RENEW_AT
        problem = "nobody was asked in time"
        while True:
            now_s = clock_s()
            left_s = self._trusted_until_s - now_s
            if left_s <= 0:
                self._loss = f"two thirds of the lease are over, and it could not be renewed: {problem}"
                return
            if now_s < renew_at_s:
                await asyncio.sleep(min(renew_at_s - now_s, left_s, self._lease_s * LOOK_EVERY))
                continue
            try:
                reserved = await renew(min(left_s, self._lease_s * RENEW_AT))
            except NOBODY_KNOWS as error:
                problem = str(error)
                log.warning("a lease is not renewed yet: %s", problem)
                renew_at_s = clock_s() + self._lease_s * LOOK_EVERY
            except RequestFailed as error:
                self._loss = f"the lease is refused: {error}"
                return
            else:
                if reserved.fencing_token != self._fencing_token:
                    self._loss = "another run has taken a claim of this lease"
                    return
                self._trusted_until_s = now_s + self._lease_s * TRUST_UNTIL
                renew_at_s = now_s + self._lease_s * RENEW_AT


def clock_s() -> float:
    """Seconds that go on while the machine sleeps, as a lease does, where the system has such a clock."""
    boot_time: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)
