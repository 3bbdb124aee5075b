"""The program under test: one start of it, what it prints, and its end."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cli.conformance.timeline import Ending, Spoken, Task, Timeline
from worker.settings import AMQP_URL

ORG_ID: Final = "conformance"

LINE_BYTES_MAX: Final = 1024 * 1024
ERROR_LINES_SHOWN_MAX: Final = 15
"""Of what the program printed to standard error in a scenario that failed; the last."""


def variables(task: Task, url: str, folder: Path) -> dict[str, str]:
    """What tells the program what to do, as environment variables."""
    return {
        AMQP_URL: url,
        "CONFORMANCE_ORG_ID": ORG_ID,
        "CONFORMANCE_CLAIM_IDS": ",".join(task.claim_ids),
        "CONFORMANCE_LEASE_S": str(task.lease_s),
        "CONFORMANCE_PAY_S": str(task.pay_s),
        "CONFORMANCE_FOLDER": str(folder),
    }


class Program:
    """Starts of the program in one scenario. `errors` are the last lines of its standard error."""

    def __init__(self, command: Sequence[str], given: Mapping[str, str], timeline: Timeline) -> None:
        self._command = command
        self._environment = {**os.environ, **given}
        self._timeline = timeline
        self.errors: deque[str] = deque(maxlen=ERROR_LINES_SHOWN_MAX)

    async def run(self, timeout_s: float, kill_at: str | None = None) -> None:
        """Start it, and wait until it ends; it is killed when it takes longer.

        With `kill_at` it is killed on purpose when it prints a line that begins with this word. Raises OSError if it
        cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
        )
        was_killed = False
        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read_errors(process))
                was_killed = await self._read_lines(process, kill_at)
                if was_killed:
                    _kill_group(process.pid)
                await process.wait()
        except TimeoutError:
            pass
        finally:
            _kill_group(process.pid)
            code = process.returncode
            await process.wait()
        now_s = asyncio.get_running_loop().time()
        self._timeline.endings.append(Ending(now_s, None if was_killed else code, was_killed))

    async def _read_lines(self, process: asyncio.subprocess.Process, kill_at: str | None) -> bool:
        """Note what it says, to its end; returns True at once where it is to be killed."""
        assert process.stdout is not None
        while line := await _line(process.stdout):
            word, _, claim_id = line.decode(errors="replace").strip().partition(" ")
            self._timeline.spoken.append(Spoken(asyncio.get_running_loop().time(), word, claim_id))
            if word == kill_at:
                return True
        return False

    async def _read_errors(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await _line(process.stderr):
            self.errors.append(line.decode(errors="replace").rstrip())


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line; of one that is too long a word that means nothing."""
    try:
        return await stream.readline()
    except ValueError:
        return b"(a line that is too long)\n"


def _kill_group(process_id: int) -> None:
    """Kill the program and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process_id, signal.SIGKILL)
