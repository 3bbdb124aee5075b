"""A worker whose event loop stands still ends; one that waits goes on."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, time
from worker.watchdog import end_if_blocked

async def main():
    watching = asyncio.create_task(end_if_blocked(0.5))
    await asyncio.sleep(0)
    {step}
    watching.cancel()

def endless_handler():
    time.sleep(20)

asyncio.run(main())
"""


@pytest.mark.parametrize(("step", "code"), [("endless_handler()", 1), ("await asyncio.sleep(1.5)", 0)])
def test_a_loop_that_stands_still(step: str, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(step=step)], capture_output=True, timeout=15, check=False, text=True
    )
    assert (ended.returncode, "in endless_handler" in ended.stderr) == (code, bool(code))
