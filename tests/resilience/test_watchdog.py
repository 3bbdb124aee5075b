"""A worker whose event loop stands still ends; one that waits, or that was stopped, goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from worker.process import PROCESSOR_TIMER_SIGNAL

BLOCKED_MAX_S = 1.5
END_TIMEOUT_S = 60

PROGRAM = f"""
import asyncio, re, sys, time
from worker.process import end_if_blocked

async def main():
    watching = asyncio.create_task(end_if_blocked({BLOCKED_MAX_S}))
    await asyncio.sleep(0)
    print("started", flush=True)
    {{step}}
    watching.cancel()

def endless_handler():
    time.sleep(20)

def endless_expression():
    re.match("(a*)*b", "a" * 40)

def endless_log():
    while True:
        print("x" * 1000, file=sys.stderr, flush=True)

asyncio.run(main())
"""


def program(step: str, stderr: int) -> subprocess.Popen[str]:
    """A process with a watchdog that has started, and does this step now."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(step=step)], stdout=subprocess.PIPE, stderr=stderr, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.parametrize(
    ("step", "code", "function"),
    [
        ("endless_handler()", 1, "endless_handler"),
        ("endless_expression()", -PROCESSOR_TIMER_SIGNAL, "endless_expression"),
    ],
)
def test_a_loop_that_stands_still(step: str, code: int, function: str) -> None:
    """In Python, and in C, where no other thread can run."""
    process = program(step, subprocess.PIPE)
    _, err = process.communicate(timeout=END_TIMEOUT_S)
    assert process.returncode == code
    assert f"in {function}" in err


def test_a_loop_that_moves() -> None:
    process = program(f"await asyncio.sleep({3 * BLOCKED_MAX_S})", subprocess.PIPE)
    assert process.communicate(timeout=END_TIMEOUT_S) == ("", "")
    assert process.returncode == 0


def test_a_process_that_was_stopped_goes_on() -> None:
    """By SIGSTOP, as by a machine that was paused."""
    process = program(f"await asyncio.sleep({BLOCKED_MAX_S})", subprocess.PIPE)
    for _ in range(2):
        process.send_signal(signal.SIGSTOP)
        time.sleep(3 * BLOCKED_MAX_S)
        process.send_signal(signal.SIGCONT)
        time.sleep(BLOCKED_MAX_S / 10)
    assert process.communicate(timeout=END_TIMEOUT_S) == ("", "")
    assert process.returncode == 0


def test_a_process_whose_standard_error_nobody_reads_ends() -> None:
    """The loop waits for room in the pipe, and there is none for the stacks either."""
    reading, writing = os.pipe()
    with program("endless_log()", writing) as process:
        try:
            assert process.wait(END_TIMEOUT_S) == 1
        finally:
            process.kill()
            os.close(reading)
            os.close(writing)
