"""Trying again: whether to, how long to wait before, and until when."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress


def is_being_cancelled() -> bool:
    """Whether somebody, or a time-out, cancels this task. If so, it must not try again.

    The exception that a task gets does not tell. When a task is cancelled, asyncpg rolls its transaction back, and if
    that fails, its error replaces the cancellation. And aiormq raises CancelledError for a connection that fell silent,
    although nobody cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def raise_if_cancelled() -> None:
    """Raise CancelledError where somebody cancels this task.

    A library may have swallowed it: asyncio.wait_for of Python 3.11 does, where what it waits for ends in that moment.
    """
    if is_being_cancelled():
        raise asyncio.CancelledError


def delays_s(first_s: float, max_s: float) -> Iterator[float]:
    """Endless delays in seconds: steps that double up to `max_s`, each shortened by up to a half at random.

    The random part keeps workers that lost the same server from returning to it at the same moment.
    """
    step_s = first_s
    while True:
        yield step_s * random.uniform(0.5, 1.0)
        step_s = min(step_s * 2, max_s)


async def wait(stopping: asyncio.Event, delay_s: float) -> bool:
    """Wait for `delay_s`, or until `stopping` is set. Returns whether it is set.

    Not asyncio.wait_for: before Python 3.12 it can swallow the cancellation of the task that waits.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await stopping.wait()
    return stopping.is_set()
