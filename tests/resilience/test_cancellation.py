"""A task that is cancelled ends, at whatever step that was, and leaves no error that nobody reads."""

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from tests.chaos.proxy import Proxy
from tests.resilience.conftest import opened, through
from tests.resilience.observing import until
from worker.broker.link import CLOSE_TIMEOUT_S, open_link
from worker.database.pool import acquire
from worker.settings import WorkerSettings

Work = Coroutine[Any, Any, Any] | Generator[Any, None, Any]

COMMAND_TIMEOUT_S = 0.5
MARGIN_S = 10


class CancelsAtStep:
    """Cancels a task in the moment in which the nth of the tasks that it waits for has ended.

    In that moment asyncio.wait_for of Python 3.11 swallows the cancellation.
    """

    def __init__(self, step: int) -> None:
        self.target: asyncio.Task[Any] | None = None
        self._steps_left = step
        self.is_done = False

    def make(self, loop: asyncio.AbstractEventLoop, work: Work) -> "asyncio.Task[Any]":
        """What the event loop makes tasks with."""
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop)
        if self.target is not None and asyncio.current_task() is self.target:
            if self._steps_left == 0:
                task.add_done_callback(self._cancel)
            self._steps_left -= 1
        return task

    def _cancel(self, _: "asyncio.Task[Any]") -> None:
        if self.target is not None and not self.target.done():
            self.is_done = self.target.cancel()


async def test_a_connection_that_opens_can_be_given_up_at_any_step(settings: WorkerSettings) -> None:
    steps = 0
    while await is_cancelled_at(steps, settings):
        steps += 1
    assert steps > 2


async def is_cancelled_at(step: int, settings: WorkerSettings) -> bool:
    """Whether a connection that opens has so many steps. The task that opens it is cancelled then, and ends."""
    is_open = asyncio.Event()

    async def hold() -> None:
        async with open_link(settings, "a test", lambda reason: None, confirms=False):
            is_open.set()
            await asyncio.Event().wait()

    cancels = CancelsAtStep(step)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(cancels.make)
    try:
        target = cancels.target = asyncio.create_task(hold())
        await until(lambda: is_open.is_set() or cancels.is_done)
    finally:
        loop.set_task_factory(None)
    if not cancels.is_done:
        target.cancel()
    await asyncio.wait({target}, timeout=CLOSE_TIMEOUT_S + MARGIN_S)
    assert target.cancelled()
    return cancels.is_done


async def test_a_connection_that_is_given_back_in_vain(database_url: str) -> None:
    """The wire is frozen, so asyncpg cannot roll back. Whoever waits for that is cancelled, and asyncpg tries on."""
    is_open, is_frozen = asyncio.Event(), asyncio.Event()

    async def use(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        async with acquire(pool) as connection:
            await connection.execute("BEGIN")
            is_open.set()
            await is_frozen.wait()

    async with opened(database_url, Proxy) as proxy, AsyncExitStack() as stack:
        pool = await asyncpg.create_pool(
            through(database_url, proxy), min_size=0, max_size=1, command_timeout=COMMAND_TIMEOUT_S
        )
        task = asyncio.create_task(use(pool))
        await is_open.wait()
        await stack.enter_async_context(proxy.frozen())
        is_frozen.set()
        await asyncio.wait({task}, timeout=COMMAND_TIMEOUT_S / 10)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        await until(lambda: pool.get_size() == 0)
        pool.terminate()
