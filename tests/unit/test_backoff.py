"""Waiting: for the next attempt, or until told to stop."""

import asyncio

import pytest

from worker.backoff import wait
from worker.events import requeue_delay_s

LONG_S = 60


async def test_it_waits_so_long() -> None:
    assert not await wait(asyncio.Event(), 0.01)


async def test_it_ends_when_it_is_time_to_stop() -> None:
    stopping = asyncio.Event()
    waiting = asyncio.create_task(wait(stopping, LONG_S))
    await asyncio.sleep(0)
    stopping.set()
    assert await waiting


async def test_who_is_told_to_stop_and_cancelled_at_once_is_cancelled() -> None:
    stopping = asyncio.Event()
    waiting = asyncio.create_task(wait(stopping, LONG_S))
    await asyncio.sleep(0)
    stopping.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_what_fails_again_and_again_comes_back_later_and_later() -> None:
    assert [requeue_delay_s(deliveries) for deliveries in (0, 1, 2, 5, 6, 49, 10**9)] == [1, 2, 4, 32, 60, 60, 60]
