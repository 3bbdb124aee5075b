"""An exporter that is killed at a step: before or after a statement, a publish, a request or a payment."""

import asyncio
import itertools
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from export_runs_client import ExportRuns
from export_runs_client.links import Link
from tests.wire import WAIT_S

CLAIM_IDS: Final = ("taxi-17", "hotel-4", "lunch-9")
"""The exporter pays the first two, and skips the last."""

WRITES: Final = ("INSERT", "UPDATE", "DELETE", "COMMIT")
"""What a statement begins with that changes something. Before the others there is nothing new to lose."""

_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])


async def run_exporter(amqp_url: str, folder: Path, org_id: str, killed_at: int) -> int | None:
    """Run an exporter with its spool and its ledger in a folder, until a step; returns its exit code.

    With a step that it does not reach it ends by itself, and the file `steps` has their number.
    """
    process = _PROCESSES.Process(target=_run, args=(amqp_url, folder, org_id, killed_at), daemon=True)
    process.start()
    await asyncio.to_thread(process.join, WAIT_S)
    process.kill()
    process.join()
    return process.exitcode


def paid(folder: Path) -> list[str]:
    """The claims that the ledger has paid, in order."""
    ledger = folder / "ledger"
    return ledger.read_text(encoding="utf-8").split() if ledger.exists() else []


def _run(amqp_url: str, folder: Path, org_id: str, killed_at: int) -> None:
    steps = itertools.count()

    def step(*_: object) -> None:
        if next(steps) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect_traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*arguments, **options)
        database.set_trace_callback(lambda statement: step() if statement.startswith(WRITES) else None)
        return database

    def stepping(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def with_steps(*arguments: Any) -> Any:
            step()
            result = await method(*arguments)
            step()
            return result

        return with_steps

    sqlite3.connect = connect_traced  # type: ignore[assignment]
    Link.publish_event = stepping(Link.publish_event)  # type: ignore[assignment, method-assign]
    Link.ask = stepping(Link.ask)  # type: ignore[assignment, method-assign]
    asyncio.run(_export(amqp_url, folder, org_id, step))
    (folder / "steps").write_text(str(next(steps)), encoding="utf-8")


async def _export(amqp_url: str, folder: Path, org_id: str, step: Callable[[], None]) -> None:
    async with (
        ExportRuns.connect(amqp_url, spool=folder / "spool", timeout_s=WAIT_S) as runs,
        runs.export(org_id, "alice", "csv", CLAIM_IDS) as export,
    ):
        for claim_id in CLAIM_IDS[:2]:
            await export.paying(claim_id)
            step()
            _pay(folder / "ledger", claim_id)
            step()
            await export.exported(claim_id, voucher_id=f"V-{claim_id}")
        await export.skipped(CLAIM_IDS[2], reason="no receipt")


def _pay(ledger: Path, claim_id: str) -> None:
    with ledger.open("a", encoding="utf-8") as file:
        file.write(f"{claim_id}\n")
        file.flush()
        os.fsync(file.fileno())
