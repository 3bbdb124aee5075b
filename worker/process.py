"""When the process of a worker ends: in good order at a signal, or at once when its event loop stands still.

The first SIGTERM or SIGINT stops it in good order; what the next ones do is the caller's choice.

The watchdog ends a worker whose event loop stands still. A handler that never lets other tasks run holds its events for
ever. RabbitMQ would give them to the next worker, which would stand still too. When the process ends instead, each
event it held has one delivery more, until the event that blocks reaches its delivery limit and RabbitMQ dead-letters
it. Whoever started the process starts it again.

Time counts only while the process runs. A process that was stopped, or whose machine was, has done nothing wrong: a
thread wakes again and again, and each time counts once, however long it slept.
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from itertools import count
from typing import Final

import structlog

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

CHECKS: Final = 10
"""How often the loop shows that it moves, in the time that it may stand still."""

STACKS_TIMEOUT_S: Final = 1.0
"""For writing the stacks. Nobody may be reading standard error: that may be what the loop waits for."""

PROCESSOR_TIMER_SIGNAL: Final = signal.SIGPROF

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def stop_on_signals(stopping: asyncio.Event, on_next: Callable[[signal.Signals], None] | None = None) -> None:
    """Set `stopping` at the first signal. At each further one call `on_next`; without it, the next one kills."""
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        if stopping.is_set() and on_next is not None:
            on_next(number)
            return
        stop(stopping)
        if on_next is None:
            for each in STOP_SIGNALS:
                loop.remove_signal_handler(each)  # also where the event loop stands still by then

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, handle, number)


def stop_at_end_of_input(stopping: asyncio.Event, descriptor: int) -> None:
    """Set `stopping` when whoever holds the other end of this pipe closes it, if only by its death."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(descriptor, 1):
            loop.remove_reader(descriptor)
            stop(stopping)

    loop.add_reader(descriptor, read)


def stop(stopping: asyncio.Event) -> None:
    """Have the process stop, and log that once."""
    if not stopping.is_set():
        log.info("worker_stopping")
        stopping.set()


async def end_if_blocked(blocked_max_s: float) -> None:
    """End the process, with status 1 and the stacks on standard error, if the event loop stands still for so long.

    Code in C that keeps all other threads from running is ended by PROCESSOR_TIMER_SIGNAL, when it has used so much
    time of the processor.
    """
    interval_s = blocked_max_s / CHECKS
    watch = _Watch(interval_s)
    # `chain`: after the stacks comes what the signal does by default, and that is to end the process.
    faulthandler.register(PROCESSOR_TIMER_SIGNAL, all_threads=True, chain=True)
    watch.start()
    try:
        while True:
            watch.beats += 1
            signal.setitimer(signal.ITIMER_PROF, blocked_max_s)
            await asyncio.sleep(interval_s)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(PROCESSOR_TIMER_SIGNAL)
        watch.ended.set()


class _Watch(threading.Thread):
    """Ends the process when it has woken so often without a new beat."""

    def __init__(self, interval_s: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.beats = 0
        self.ended = threading.Event()
        self._interval_s = interval_s

    def run(self) -> None:
        last_beat, misses = self.beats, count(1)
        while not self.ended.wait(self._interval_s):
            if self.beats != last_beat:
                last_beat, misses = self.beats, count(1)
            elif next(misses) >= CHECKS:
                _end_process()


def _end_process() -> None:
    stacks = "\n".join(
        f"Thread {thread}:\n{''.join(traceback.format_stack(frame))}" for thread, frame in sys._current_frames().items()
    )
    text = f"The event loop stands still; the process ends.\n{stacks}".encode(errors="backslashreplace")
    writing = threading.Thread(target=os.write, args=(sys.stderr.fileno(), text), daemon=True)
    writing.start()
    writing.join(STACKS_TIMEOUT_S)
    os._exit(1)
