"""Waits: until the next attempt, or until the worker stops."""

import asyncio

import pytest

from worker.events.store import requeue_delay_s
from worker.limits import WorkerLimits
from worker.retries import wait

LONG_S = 60


async def test_a_wait_ends_after_its_time() -> None:
    assert not await wait(asyncio.Event(), 0.01)


async def test_a_wait_ends_when_the_worker_stops() -> None:
    stopping = asyncio.Event()
    task = asyncio.create_task(wait(stopping, LONG_S))
    await asyncio.sleep(0)
    stopping.set()
    assert await task


async def test_a_wait_that_is_cancelled_while_the_worker_stops_is_cancelled() -> None:
    stopping = asyncio.Event()
    task = asyncio.create_task(wait(stopping, LONG_S))
    await asyncio.sleep(0)
    stopping.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_delay_before_a_requeue_grows_with_the_deliveries() -> None:
    assert [requeue_delay_s(deliveries, WorkerLimits()) for deliveries in (0, 1, 2, 5, 6, 49, 10**9)] == [
        1,
        2,
        4,
        32,
        60,
        60,
        60,
    ]
