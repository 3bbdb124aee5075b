"""A worker as a process for each of its parts, and one more that starts them, watches them and ends them.

A batch of events holds an event loop for tens of milliseconds. In a process of its own it holds up no request, and a
part that dies or stands still leaves the other one alone.

The supervisor holds one end of a pipe that is the standard input of a part. A part stops in good order when that end
closes: because the supervisor closes it, or because the supervisor is dead. So a part cannot outlive it, and a signal
that reaches both of them, as from a service manager, stops the part only once.
"""

import asyncio
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from worker import logs
from worker.app import check_services
from worker.limits import DEFAULT_LIMITS, WorkerLimits
from worker.logs import describe
from worker.monitoring.health import Report, log_start, set_build_info
from worker.monitoring.reports import ReportSource
from worker.process import STOP_SIGNALS, end_if_blocked, stop, stop_on_signals
from worker.retries import delays_s, wait
from worker.routes import Part
from worker.settings import WorkerSettings

REFUSED_BY_PART: Final = 64
"""A part adds this to its exit code where only a person can mend what is wrong, so that to start it again is no use.
Without it, 1 is also the exit code of a bug."""

EXPLANATION_BYTES_MAX: Final = 4096
"""Of what a part prints, so much is passed on: it is one line, as a rule."""

SIGNALLED: Final = 128
"""From here on an exit code speaks of a signal."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def supervise(
    command: Sequence[str],
    settings: WorkerSettings,
    say: Callable[[str], None],
    limits: WorkerLimits = DEFAULT_LIMITS,
) -> int:
    """Keep each part running until SIGTERM or SIGINT, or until one needs a person. Returns the worker's exit code.

    `command` runs a worker; with `--only PART --supervisor DESCRIPTOR` it runs one part, which prints on its standard
    output why it cannot go on. `say` gets those lines; at the end each only once, because both parts often have one
    reason. The exit code is 0 if every part finished everything in hand, else the highest of the parts. A second signal
    kills them and this process.

    Raises TopologyMismatch, DatabaseRefused or Misconfiguration before it starts a part: so that one process says what
    is wrong, and not each of its parts.
    """
    logs.configure(settings.log_level, part="supervisor")
    stopping = asyncio.Event()
    parts = [PartProcess(part, command, settings.shutdown_s, say, limits, stopping) for part in Part]

    def kill(number: signal.Signals) -> None:
        for part in parts:
            part.kill()
        asyncio.get_running_loop().remove_signal_handler(number)
        os.kill(os.getpid(), number)

    stop_on_signals(stopping, kill)
    watchdog = asyncio.create_task(end_if_blocked(limits.loop_blocked_max_s))
    set_build_info()
    log_start(settings)
    if not await _check_services(settings, stopping):
        return 0

    from worker.monitoring.http_server import http_server  # aiohttp is slow to import, and few processes need it

    async def reports() -> list[Report]:
        own = Report.of("supervisor", [])
        return [own, *await asyncio.gather(*(part.reports.report() for part in parts))]

    async with http_server(settings, reports):
        code = max(await asyncio.gather(*(part.keep_running() for part in parts)))
    watchdog.cancel()
    for line in dict.fromkeys(line for part in parts for line in part.explanation):
        say(line)
    if not code:
        log.info("worker_stopped")
    return code


async def _check_services(settings: WorkerSettings, stopping: asyncio.Event) -> bool:
    """Whether to start, or to stop at once because a signal came."""
    checking = asyncio.create_task(check_services(settings))
    stop_asked = asyncio.create_task(stopping.wait())
    await asyncio.wait({checking, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
    if not checking.done():
        checking.cancel()
        return False
    stop_asked.cancel()
    checking.result()
    return True


class PartProcess:
    """The process of one part, started again after a growing pause whenever it ends."""

    def __init__(
        self,
        part: Part,
        command: Sequence[str],
        shutdown_s: float,
        say: Callable[[str], None],
        limits: WorkerLimits,
        stopping: asyncio.Event,
    ) -> None:
        self._part = part
        self._command = (*command, "--only", part)
        self.reports = ReportSource(part)
        # It gives up finishing after shutdown_s, and what is left then has as long to be cancelled.
        self._end_timeout_s = 2 * shutdown_s + limits.part_end_margin_s
        self._say = say
        self._limits = limits
        self._stopping = stopping
        self._process: Process | None = None
        self.explanation: list[str] = []
        """What its last process printed at its end, and nobody has been told yet."""

    async def keep_running(self) -> int:
        """Until `stopping` is set; returns what the part adds to the worker's exit code."""
        delays = self._delays_s()
        while not self._stopping.is_set():
            started_s = time.monotonic()
            code = await self._run()
            if REFUSED_BY_PART <= code < SIGNALLED:
                stop(self._stopping)
                return code - REFUSED_BY_PART
            if self._stopping.is_set():
                return _code_at_stop(code)
            if time.monotonic() - started_s > self._limits.part_steady_s:
                delays = self._delays_s()
            pause_s = next(delays)
            log.warning("part_ended", process=self._part, exit_code=code, pause_s=round(pause_s, 1))
            for line in self.explanation:
                self._say(line)
            self.explanation = []
            await wait(self._stopping, pause_s)
        return 0

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _delays_s(self) -> Iterator[float]:
        return delays_s(self._limits.part_pause_first_s, self._limits.part_pause_max_s)

    async def _run(self) -> int:
        """Start it, and wait for its end, which `stopping` brings about; its exit code, negative for a signal."""
        with await self.reports.connect() as descriptor:
            command = *self._command, "--supervisor", str(descriptor.fileno())
            try:
                # In a process group of its own, because a Ctrl-C in a terminal signals the whole group.
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=PIPE, stdout=PIPE, process_group=0, pass_fds=[descriptor.fileno()]
                )
            except OSError as error:
                log.error("part_not_started", process=self._part, **describe(error))
                return 1
        self._process = process
        log.info("part_started", process=self._part, pid=process.pid)
        ending = asyncio.create_task(process.wait())
        stop_asked = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({ending, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        stop_asked.cancel()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        await asyncio.wait({ending}, timeout=self._end_timeout_s)
        if not ending.done():
            log.error("part_stuck", process=self._part)
            process.kill()
        code = await ending
        self.reports.close()
        text = (await process.stdout.read())[:EXPLANATION_BYTES_MAX]
        self.explanation = text.decode(errors="replace").splitlines()
        return code


def _code_at_stop(code: int) -> int:
    """What a part that was told to stop adds to the worker's exit code."""
    if -code in STOP_SIGNALS:
        return 0  # the signal reached it before it could handle one, and so before it had anything in hand
    return 1 if code < 0 else code
