"""A task that is cancelled ends, at whatever step that was, and leaves no error that nobody reads."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from export_runs_client.links import open_link as client_link
from tests.chaos.proxy import Proxy
from tests.resilience.conftest import opened, through
from tests.resilience.observing import until
from worker.broker.link import CLOSE_TIMEOUT_S, open_link
from worker.broker.queue_states import queue_states
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
        async with open_link(settings, "a test", lambda reason: None):
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


async def ask_the_broker(settings: WorkerSettings) -> None:
    """What a command does that looks at queues again and again."""
    while True:
        async with open_link(settings, "a test", lambda reason: None) as link:
            await queue_states(link, ["no-such-queue", "neither-this"])


async def use_the_client(settings: WorkerSettings) -> None:
    """The same for a program that uses the client library."""
    while True:
        async with client_link(settings.amqp_url.get_secret_value(), "a test", None):
            pass


@pytest.mark.parametrize("work", [ask_the_broker, use_the_client])
async def test_a_program_that_is_interrupted_ends(
    work: Callable[[WorkerSettings], Coroutine[Any, Any, None]], settings: WorkerSettings
) -> None:
    """asyncio.run cancels all tasks in the end, and waits for them without a bound."""
    others = asyncio.all_tasks()
    for tenth_ms in range(0, 600, 17):
        target = asyncio.create_task(work(settings))
        await asyncio.sleep(tenth_ms / 10_000)
        target.cancel()
        await asyncio.wait({target})
        left = asyncio.all_tasks() - others
        for task in left:
            task.cancel()
        assert not left or not (await asyncio.wait(left, timeout=MARGIN_S))[1]


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
