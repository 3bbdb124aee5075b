"""The processes that are measured, and what the peers need: a virtual environment and a library of Debian."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path
from typing import Final

from benchmarks.peers import environment
from local.debian import install
from local.processes import GuardedProcess
from local.services import Services

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = ROOT / "benchmarks" / "requirements-peers.lock"
PEERS_ENVIRONMENT: Final = ROOT / ".venv-peers"
PEERS_PYTHON: Final = PEERS_ENVIRONMENT / "bin" / "python"
_INSTALLED: Final = PEERS_ENVIRONMENT / "installed.lock"

STOP_TIMEOUT_S: Final = 30

WORKER: Final = (sys.executable, "-c", "from cli.main import main; main()", "worker")
EVENTS_WORKER: Final = (*WORKER, "--only", "events")
REQUESTS_WORKER: Final = (*WORKER, "--only", "requests")
"""One part of a worker, so that the start of the other part takes no time from what is measured."""

MIGRATE: Final = (*WORKER[:-1], "migrate")


class ProcessEnded(Exception):
    """A measured process has ended by itself. Its output says why."""


def peer(name: str) -> tuple[str, ...]:
    """The command of a peer that needs aio-pika and asyncpg only."""
    return (sys.executable, "-m", f"benchmarks.peers.{name}")


def framework_peer(name: str) -> tuple[str, ...]:
    """The command of a peer that is written with FastStream."""
    return (str(PEERS_PYTHON), "-m", f"benchmarks.peers.{name}")


def nameko_peer(name: str, amqp_url: str) -> tuple[str, ...]:
    """The command of a peer that nameko runs."""
    return (str(PEERS_PYTHON), "-W", "ignore", "-m", "nameko", "run", f"benchmarks.peers.{name}", "--broker", amqp_url)


def variables(services: Services, database_url: str, prefetch: int) -> dict[str, str]:
    """The environment variables of a measured process."""
    return {
        **os.environ,
        environment.AMQP_URL: services.amqp_url,
        environment.DATABASE_URL: database_url,
        environment.PREFETCH: str(prefetch),
        "EXPORT_RUNS_LOG_LEVEL": "error",
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def running(command: Sequence[str], variables: dict[str, str], log: Path) -> Iterator[GuardedProcess]:
    """Run a process, and end it with SIGTERM. Its output is appended to `log`."""
    process = GuardedProcess(command, environment=variables, log=log)
    try:
        yield process
    finally:
        process.stop(signal.SIGTERM, STOP_TIMEOUT_S)


def check(processes: Iterable[GuardedProcess]) -> None:
    """Raises ProcessEnded if one of them has ended."""
    for process in processes:
        if process.exit_code is not None:
            raise ProcessEnded(f"a measured process has ended with code {process.exit_code}")


def memory_bytes_max(pid: int) -> int:
    """The most resident memory that a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def install_peers() -> None:
    """Make the virtual environment of the peers, if it is not there or not up to date."""
    requirements = LOCK.read_text(encoding="ascii")
    if _INSTALLED.exists() and _INSTALLED.read_text(encoding="ascii") == requirements:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS_ENVIRONMENT], check=True)
    pip = PEERS_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"
    subprocess.run([*pip, "--require-hashes", "-r", LOCK], check=True)
    _INSTALLED.write_text(requirements, encoding="ascii")


def install_librabbitmq(say: Callable[[str], None]) -> None:
    """Install RabbitMQ's client library for C, if it is not there. Raises ServiceError where that is not possible."""
    try:
        CDLL(environment.LIBRABBITMQ)
    except OSError:
        install("librabbitmq4", "install librabbitmq4", say)


def peer_versions(*packages: str) -> dict[str, str]:
    """The versions of packages in the virtual environment of the peers."""
    script = "import importlib.metadata, sys\nfor name in sys.argv[1:]: print(importlib.metadata.version(name))"
    done = subprocess.run(
        [PEERS_PYTHON, "-c", script, *packages], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    return dict(zip(packages, done.stdout.split(), strict=True))
