"""How the supervisor asks its parts for their reports: over a pair of sockets that it makes for each of them.

It sends the number of a question in a line, and the part answers with its report in one line. A part whose event loop
stands still does not answer in time; when it goes on, its late answer is known by the number.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Final

from worker.monitoring.health import Health, Report

REPORT_TIMEOUT_S: Final = 2.0
"""A part that takes longer is not alive: its event loop stands still."""

REPORT_BYTES_MAX: Final = 1024 * 1024


async def answer_supervisor(descriptor: int, part: str, health: Health) -> None:
    """Send a report for each line that comes, until the supervisor closes its end."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor))
    with suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(Report.of(part, health.obstacles()).to_line(int(line)))
            await writer.drain()
    writer.close()


class ReportSource:
    """The supervisor's end of one part: asks it for its report."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._questions = 0

    async def connect(self) -> socket.socket:
        """Make a pair of sockets for a new process of the part; returns the end that it is given."""
        self.close()
        own, other = socket.socketpair()
        self._streams = await asyncio.open_connection(sock=own, limit=REPORT_BYTES_MAX)
        return other

    def close(self) -> None:
        """Forget a process that has ended."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def report(self) -> Report:
        """Ask, for at most REPORT_TIMEOUT_S."""
        async with self._lock:
            if self._streams is None:
                return Report.of_silence(self._part, "its process has ended, and is started again", is_alive=True)
            try:
                async with asyncio.timeout(REPORT_TIMEOUT_S):
                    return await self._ask(*self._streams)
            except TimeoutError:
                return Report.of_silence(self._part, "its event loop stands still", is_alive=False)
            except (ConnectionError, ValueError):
                return Report.of_silence(self._part, "its process has ended", is_alive=True)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Report:
        self._questions += 1
        writer.write(b"%d\n" % self._questions)
        await writer.drain()
        while True:
            question, report = Report.of_line(self._part, await reader.readline())
            if question == self._questions:
                return report
