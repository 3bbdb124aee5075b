"""Run `export-runs` as a process of its own, as a person or a service manager would."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.settings import WorkerSettings

COMMAND: Final = str(Path(sys.executable).with_name("export-runs"))
COMMAND_TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def environment(settings: WorkerSettings, **others: str) -> dict[str, str]:
    """The environment of a command on this test's services."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPORT_RUNS_")}
    return {
        **inherited,
        "EXPORT_RUNS_AMQP_URL": settings.amqp_url.get_secret_value(),
        "EXPORT_RUNS_DATABASE_URL": settings.database_url.get_secret_value(),
        "COLUMNS": "200",
        **others,
    }


async def export_runs(*arguments: str, settings: WorkerSettings, stdin: bytes = b"") -> Finished:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        env=environment(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), COMMAND_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


class WorkerProcess:
    """A worker in a process of its own. What it logs is read all the time, so that it never has to wait."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def until_logged(self, event: str) -> dict[str, Any]:
        """Wait until the log has an event that was not waited for before."""
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            while True:
                line = await self._lines.get()
                assert line, f"the worker ended without {event}"
                fields: dict[str, Any] = json.loads(line)
                if fields["event"] == event:
                    return fields

    async def rest(self) -> list[str]:
        """What was logged since, to the end."""
        lines = [await self._lines.get()]
        while lines[-1]:
            lines.append(await self._lines.get())
        return lines

    async def exit_code(self) -> int:
        """Wait for the end."""
        return await asyncio.wait_for(self._process.wait(), COMMAND_TIMEOUT_S)

    async def end(self) -> None:
        """Kill what is left of it."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._lines.put_nowait(line.decode())
        self._lines.put_nowait("")


@asynccontextmanager
async def worker_process(
    settings: WorkerSettings, *, planted: str = "", **variables: str
) -> AsyncIterator[WorkerProcess]:
    """`export-runs worker`, perhaps with a bug: Python that runs first. Killed if it is still there at the end."""
    program = [sys.executable, "-c", f"{planted}\nfrom worker.cli import main\nmain()"] if planted else [COMMAND]
    worker = WorkerProcess(
        await asyncio.create_subprocess_exec(
            *program, "worker", env=environment(settings, **variables), stderr=asyncio.subprocess.PIPE
        )
    )
    try:
        yield worker
    finally:
        await worker.end()
