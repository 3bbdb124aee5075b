"""The same client for programs without asyncio: scripts, Django, Celery.

Each method is the one of the asynchronous client, run in a thread of its own. Any number of threads may use one client.
"""

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar
from uuid import UUID

from . import client, export
from .schema.results import ClaimConflict

P = ParamSpec("P")
T = TypeVar("T")
Wrapped = TypeVar("Wrapped")


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="export-runs-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and wait for its result. Raises RuntimeError in a process that was forked."""
        if not self._thread.is_alive():
            coroutine.close()
            raise RuntimeError("the client was closed, or made before a fork: each process makes its own")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a person pressed Ctrl-C
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Face(Generic[Wrapped]):
    """An object of the asynchronous client, and the thread that its methods run in."""

    def __init__(self, wrapped: Wrapped, thread: LoopThread) -> None:
        self._wrapped = wrapped
        self._thread = thread


def _blocking(
    method: Callable[Concatenate[Wrapped, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Face[Wrapped], P], T]:
    """A coroutine as a method that waits for its result."""

    @functools.wraps(method)
    def wait(self: Face[Wrapped], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method(self._wrapped, *args, **kwargs))

    return wait


def _iterating(
    method: Callable[Concatenate[Wrapped, P], AsyncIterator[T]],
) -> Callable[Concatenate[Face[Wrapped], P], Iterator[T]]:
    """An asynchronous generator as a generator."""

    @functools.wraps(method)
    def iterate(self: Face[Wrapped], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._wrapped, *args, **kwargs)
        assert isinstance(items, AsyncGenerator)

        async def following() -> list[T]:
            async for item in items:
                return [item]
            return []

        try:
            while found := self._thread.run(following()):
                yield from found
        finally:
            self._thread.run(items.aclose())

    return iterate


class Export(Face[export.Export]):
    """A run that is going on; see the asynchronous Export.

    Nobody can cancel a thread: if the lease can no longer be trusted, `paying` raises LeaseLost, and so does the end of
    the block.
    """

    paying = _blocking(export.Export.paying)
    exported = _blocking(export.Export.exported)
    skipped = _blocking(export.Export.skipped)
    note = _blocking(export.Export.note)

    def check_lease(self) -> None:
        """Raises LeaseLost if nothing more may be paid. `paying` does this, too."""
        self._wrapped.check_lease()

    @property
    def run_id(self) -> UUID:
        """The id of the run."""
        return self._wrapped.run_id

    @property
    def granted(self) -> list[str]:
        """The claims that may be exported, in the order and the spelling asked for."""
        return self._wrapped.granted

    @property
    def conflicts(self) -> list[ClaimConflict]:
        """Why the other claims may not."""
        return self._wrapped.conflicts

    @property
    def fencing_token(self) -> int | None:
        """Goes along with each claim, for an accounting system that refuses a smaller one. None without a grant."""
        return self._wrapped.fencing_token


def _exporting(
    method: Callable[Concatenate[client.ExportRuns, P], AbstractAsyncContextManager[export.Export]],
) -> Callable[Concatenate[Face[client.ExportRuns], P], AbstractContextManager[Export]]:
    """The asynchronous block of an export as a block."""

    @functools.wraps(method)
    @contextmanager
    def last(self: Face[client.ExportRuns], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[Export]:
        with _entered(method(self._wrapped, *args, **kwargs), self._thread) as entered:
            yield Export(entered, self._thread)

    return last


@contextmanager
def _entered(block: AbstractAsyncContextManager[T], thread: LoopThread) -> Iterator[T]:
    """An asynchronous context manager as a context manager that swallows no exception."""

    async def enter() -> T:
        return await block.__aenter__()

    async def leave(error: BaseException | None) -> None:
        await block.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

    entered = thread.run(enter())
    try:
        yield entered
    except BaseException as error:
        thread.run(leave(error))
        raise
    thread.run(leave(None))


class ExportRuns(Face[client.ExportRuns]):
    """The service, over one connection; see the asynchronous ExportRuns."""

    @classmethod
    @contextmanager
    def connect(
        cls,
        *urls: str,
        spool: str | Path | None = None,
        timeout_s: float = client.TIMEOUT_S,
        name: str = "export-runs-client",
        user_id: str | None = None,
    ) -> Iterator["ExportRuns"]:
        """Connect to RabbitMQ, at one of these URLs, and again after each loss. Each process makes its own client."""
        thread = LoopThread()
        try:
            block = client.ExportRuns.connect(*urls, spool=spool, timeout_s=timeout_s, name=name, user_id=user_id)
            with _entered(block, thread) as runs:
                yield cls(runs, thread)
        finally:
            thread.close()

    export = _exporting(client.ExportRuns.export)
    call = _blocking(client.ExportRuns.call)
    check_claims = _blocking(client.ExportRuns.check_claims)
    reserve_claims = _blocking(client.ExportRuns.reserve_claims)
    release_claims = _blocking(client.ExportRuns.release_claims)
    reverse_export = _blocking(client.ExportRuns.reverse_export)
    find_runs_by_claim_id = _blocking(client.ExportRuns.find_runs_by_claim_id)
    explain_claim = _blocking(client.ExportRuns.explain_claim)
    timeline = _iterating(client.ExportRuns.timeline)
    get_export_run_by_id = _blocking(client.ExportRuns.get_export_run_by_id)
    list_run_claims = _blocking(client.ExportRuns.list_run_claims)
    run_claims = _iterating(client.ExportRuns.run_claims)
    get_export_history = _blocking(client.ExportRuns.get_export_history)
    history = _iterating(client.ExportRuns.history)
    check_period = _blocking(client.ExportRuns.check_period)
    get_last_export = _blocking(client.ExportRuns.get_last_export)
    list_stale_runs = _blocking(client.ExportRuns.list_stale_runs)
    stale_runs = _iterating(client.ExportRuns.stale_runs)
    create_export_run = _blocking(client.ExportRuns.create_export_run)
    update_export_run_status = _blocking(client.ExportRuns.update_export_run_status)
    delete_export_run = _blocking(client.ExportRuns.delete_export_run)
    list_double_exports = _blocking(client.ExportRuns.list_double_exports)
    double_exports = _iterating(client.ExportRuns.double_exports)
    resolve_double_export = _blocking(client.ExportRuns.resolve_double_export)
