"""The installation of RabbitMQ 4 is interrupted. Nothing of it stays for ever."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local.processes import kill_tree, wait_until
from local.rabbitmq_programs import VERSION_VARIABLE

START_S = 120
"""Until there is something of the tree. Before that, debootstrap itself may have to be installed."""
REMOVAL_S = 60

PROGRAM = """
import sys
sys.prefix = sys.argv[1]
from local.rabbitmq_programs import command_prefix
command_prefix(print)
"""


@pytest.fixture(autouse=True)
def needed_and_allowed() -> None:
    """Elsewhere nothing is installed."""
    if os.geteuid() != 0:
        pytest.skip("only root can start RabbitMQ 4 beside an older one")
    if any(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-4.*")):
        pytest.skip("this machine has RabbitMQ 4")


def folders(prefix: Path) -> set[Path]:
    """Those in which a tree is being made."""
    return {made.parents[1] for made in prefix.glob("*/tree/debootstrap")}


def begun(prefix: Path, others: set[Path]) -> "subprocess.Popen[bytes]":
    """An installation that has begun, in a folder beside these others."""
    # In a session of its own, so that a signal to all its processes is no signal to the tests.
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(prefix)],
        env={**os.environ, VERSION_VARIABLE: "4"},
        start_new_session=True,
    )
    assert wait_until(lambda: bool(folders(prefix) - others), START_S)
    return process


def is_empty(folder: Path) -> bool:
    """Whether nothing is there."""
    return not any(folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_installation_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = begun(tmp_path, set())
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C does
    else:
        process.send_signal(number)
    assert process.wait(REMOVAL_S) != 0
    assert wait_until(lambda: is_empty(tmp_path), REMOVAL_S)


def test_the_next_installation_removes_what_a_machine_that_lost_its_power_has_left(tmp_path: Path) -> None:
    lost = begun(tmp_path, set())
    kill_tree(lost.pid)
    lost.wait()
    left = folders(tmp_path)
    assert left
    process = begun(tmp_path, left)
    assert not any(folder.exists() for folder in left)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(REMOVAL_S) != 0
    assert wait_until(lambda: is_empty(tmp_path), REMOVAL_S)
