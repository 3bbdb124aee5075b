"""How long to wait before trying again, and how."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0


def delays_s(first_s: float = BACKOFF_FIRST_S, max_s: float = BACKOFF_MAX_S) -> Iterator[float]:
    """Endless delays in seconds: doubling up to a cap, each somewhere in the upper half of its step.

    The jitter keeps workers that lost the same server from coming back to it together.
    """
    step_s = first_s
    while True:
        yield step_s * random.uniform(0.5, 1.0)
        step_s = min(step_s * 2, max_s)


async def wait(stopping: asyncio.Event, delay_s: float) -> bool:
    """Wait for so long, or until `stopping` is set; returns whether it is.

    Not asyncio.wait_for: until Python 3.12 it can swallow the cancellation of the task that waits.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await stopping.wait()
    return stopping.is_set()
