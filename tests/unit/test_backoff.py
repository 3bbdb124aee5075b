"""Waiting, until told to stop."""

import asyncio

import pytest

from worker.backoff import wait

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
