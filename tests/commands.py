"""Run `export-runs` as a process of its own, as a person or a service manager does."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from local.processes import kill_tree
from worker.routes import Part
from worker.settings import WorkerSettings

COMMAND: Final = str(Path(sys.executable).with_name("export-runs"))
COMMAND_TIMEOUT_S: Final = 120

ONE_PROCESS: Final = "from worker.session import DEFAULT_PARTS as parts"
"""A worker that does everything in one process, for tests that kill it or look into it."""

RUN_WITH_PARTS: Final = """
import asyncio, sys
from worker.app import run_worker
from worker.broker.malformed_frames import tolerate_malformed_properties
from worker.settings import WorkerSettings

tolerate_malformed_properties()
sys.exit(not asyncio.run(run_worker(WorkerSettings(), parts)))
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """The exit code of a command, and what it printed to standard output and standard error."""

    code: int
    out: str
    err: str


def environment(settings: WorkerSettings, **others: str) -> dict[str, str]:
    """The environment variables of a command that uses this test's services."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPORT_RUNS_")}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # or each command would compile all that it imports anew
    return {
        **inherited,
        "EXPORT_RUNS_AMQP_URL": settings.amqp_url.get_secret_value(),
        "EXPORT_RUNS_DATABASE_URL": settings.database_url.get_secret_value(),
        "COLUMNS": "200",
        **others,
    }


async def export_runs(
    *arguments: str, settings: WorkerSettings, stdin: bytes = b"", variables: Mapping[str, str] = MappingProxyType({})
) -> Finished:
    """Run `export-runs` with these arguments until it ends, for at most COMMAND_TIMEOUT_S."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        env=environment(settings, **variables),
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
    """A worker in processes of its own. Its log is read all the time, so that it never waits for a full pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """Process id of the supervisor, or of the only process."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def until_logged(self, event: str) -> dict[str, Any]:
        """Read the log until it has this event. Returns its fields. Earlier lines are dropped."""
        return await self.next_logged(event)

    async def next_logged(self, *events: str) -> dict[str, Any]:
        """The same for one of several events, whichever comes first."""
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            while True:
                line = await self._lines.get()
                assert line, f"the worker ended without {events}"
                fields: dict[str, Any] = json.loads(line)
                if fields["event"] in events:
                    return fields

    async def until_parts_started(self) -> dict[str, int]:
        """Wait until every part has a session; their process ids."""
        pids: dict[str, int] = {}
        serving: set[str] = set()
        while serving != set(Part):
            fields = await self.next_logged("part_started", "session_started")
            if fields["event"] == "part_started":
                pids[fields["process"]] = fields["pid"]
            else:
                serving.add(fields["part"])
        return pids

    async def rest(self) -> list[str]:
        """Read the rest of the log, until the worker closes it."""
        lines = [await self._lines.get()]
        while lines[-1]:
            lines.append(await self._lines.get())
        return lines

    async def exit_code(self) -> int:
        """Wait until the worker ends, for at most COMMAND_TIMEOUT_S."""
        return await asyncio.wait_for(self._process.wait(), COMMAND_TIMEOUT_S)

    async def end(self) -> None:
        """Kill the worker if it still runs."""
        if self._process.returncode is None:
            await asyncio.to_thread(kill_tree, self.pid)
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._lines.put_nowait(line.decode())
        self._lines.put_nowait("")


@asynccontextmanager
async def worker_process(
    settings: WorkerSettings, *options: str, parts: str = "", **variables: str
) -> AsyncIterator[WorkerProcess]:
    """Run `export-runs worker`, or in one process a worker with other `parts`: Python statements that define `parts`.

    The worker is killed at the end if it still runs.
    """
    command = [sys.executable, "-c", f"{parts}\n{RUN_WITH_PARTS}"] if parts else [COMMAND, "worker", *options]
    worker = WorkerProcess(
        await asyncio.create_subprocess_exec(
            *command, env=environment(settings, **variables), stderr=asyncio.subprocess.PIPE
        )
    )
    try:
        yield worker
    finally:
        await worker.end()
