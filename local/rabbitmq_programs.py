"""RabbitMQ's programs: those of this machine, and for tests those of RabbitMQ 4 where this machine has an older one.

RabbitMQ needs the Erlang that it was built for, so RabbitMQ 4 comes with all of Debian 13: in a directory tree of its
own, into which each program is started with `chroot`. It shares this machine's processes, ports and temporary files.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from local.debian import install
from local.processes import GuardedProcess, ServiceError, tail

VERSION_VARIABLE: Final = "RABBITMQ_VERSION"
"""The environment variable that asks for RabbitMQ 4, by the value `4`. Otherwise it is the one of this machine."""

FOLDER: Final = Path("/usr/lib/rabbitmq/bin")
"""Where the programs are, on this machine and in the tree. What is in PATH are wrappers for the user "rabbitmq"."""

_VERSION: Final = "4"
_INSTALLED: Final = Path("/usr/lib/rabbitmq/lib")
_ADVICE: Final = "install rabbitmq-server, start a Docker engine, or name a broker in EXPORT_RUNS_AMQP_URL"

_SUITE: Final = "trixie"
_TREE: Final = Path(sys.prefix, f"rabbitmq-{_SUITE}")
"""In this Python environment, so that it goes with it."""

_UNFINISHED: Final = f"{_TREE.name}-unfinished-"
"""How the name of a folder begins in which a tree is being made."""

_TREE_TIMEOUT_S: Final = 540

# Makes the tree $0 from the mirror $1 and removes what only its package manager needs. What is mounted for that ends
# with the process.
_MAKE_TREE: Final = f"""
set -e
debootstrap --variant=minbase --include=rabbitmq-server {_SUITE} "$0" "$1"
rm -rf "$0"/var/cache/apt "$0"/var/lib/apt/lists "$0"/usr/share/doc "$0"/usr/share/man "$0"/usr/share/locale
"""

# Runs "$@" in the tree $0, where the folder of temporary files is that of this machine. The mount is seen by this
# process and its children only, and ends with them.
_ENTER_TREE: Final = """
set -e
temporary=$1
shift
mkdir -p "$0$temporary"
mount --rbind "$temporary" "$0$temporary"
mount --rbind /proc "$0/proc"
mount --rbind /dev "$0/dev"
exec /usr/sbin/chroot "$0" "$@"
"""


def command_prefix(say: Callable[[str], None]) -> list[str]:
    """What to write before a program of FOLDER, or `epmd`, so that the chosen version runs. It becomes that program.

    What is missing is installed, and that is said through `say`. Raises ServiceError.
    """
    version = os.environ.get(VERSION_VARIABLE)
    if version not in (None, "", _VERSION):
        raise ServiceError(f"{VERSION_VARIABLE} is {version}; it may be {_VERSION}")
    if not (FOLDER / "rabbitmq-server").exists():
        install("rabbitmq-server", _ADVICE, say)
    if not version or any(_INSTALLED.glob(f"rabbitmq_server-{_VERSION}.*")):
        return []
    if os.geteuid() != 0:
        raise ServiceError(f"RabbitMQ {_VERSION} is not installed here, and only root can start one from a tree")
    with _one_process_at_a_time():
        if not _TREE.exists():
            _make_tree(say)
    return ["unshare", "--mount", "--", "sh", "-c", _ENTER_TREE, str(_TREE), tempfile.gettempdir()]


@contextmanager
def _one_process_at_a_time() -> Iterator[None]:
    folder = os.open(sys.prefix, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _make_tree(say: Callable[[str], None]) -> None:
    """Raises ServiceError if it cannot be made; then nothing of it is left. One process at a time calls this."""
    if not shutil.which("debootstrap"):
        install("debootstrap", "install debootstrap", say)
    mirror = _mirror()
    for left_behind in Path(sys.prefix).glob(f"{_UNFINISHED}*"):  # nobody else makes one now
        shutil.rmtree(left_behind, ignore_errors=True)
    say(f"Installing RabbitMQ {_VERSION} into {_TREE}, which takes about a minute ...")
    with tempfile.TemporaryDirectory(dir=sys.prefix, prefix=_UNFINISHED) as name:
        folder = Path(name)
        tree, log = folder / "tree", folder / "log"
        command = ["unshare", "--mount", "--", "sh", "-c", _MAKE_TREE, str(tree), mirror]
        process = GuardedProcess(command, environment=os.environ, log=log, scratch=folder)
        try:
            code = process.wait(_TREE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ServiceError(f"debootstrap took over {_TREE_TIMEOUT_S} s:\n{tail(log)}") from None
        finally:
            process.kill()
        if code != 0:
            raise ServiceError(f"debootstrap failed:\n{tail(log)}")
        tree.rename(_TREE)


def _mirror() -> str:
    """Where this machine's apt gets Debian's packages from. Raises ServiceError."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    )
    for line in listed.stdout.splitlines():
        origin, label, uri = line.rsplit(" ", 2)
        if (origin, label) == ("Debian", "Debian"):
            return uri
    raise ServiceError("apt-get knows no mirror of Debian; run apt-get update")
