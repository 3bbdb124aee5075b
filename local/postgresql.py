"""A PostgreSQL server for development, and a standby for it."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from local.postgresql_programs import chosen_version, client_program, programs
from local.processes import GuardedProcess, ServiceError, tail
from local.server import LocalServer

NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
"""Settings that do not wait for the disk. A commit survives a crash of the server, but not of the machine."""

AS_SHIPPED = {
    "max_locks_per_transaction": "256",
    "max_wal_size": "4GB",
    "shared_buffers": "1GB",
    "wal_compression": "on",
}
"""The settings of docker-compose.yml."""

STANDBY_NAME = "standby"

BUILTIN_LOCALE_VERSION_MIN = 17
"""Older versions take the locale from the machine."""

_PREPARATION_TIMEOUT_S = 60.0
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_USER = "postgres"

# Copies folders, $2 and those after it, from the directory $0 to the directory $1, readable by everyone.
_COPY = """
set -e
from=$0 to=$1
shift
for folder; do
    mkdir -p "$to/$(dirname "$folder")"
    cp -R "$from/$folder" "$to/$folder"
    chmod -R a+rX "$to/${folder%%/*}"
done
"""

# A StartupMessage of protocol 3.0. A server that takes connections answers with an authentication request,
# one that is still starting or recovering with an error.
_STARTUP_PARAMETERS = f"user\0{_USER}\0database\0{_USER}\0\0".encode()
STARTUP_MESSAGE = struct.pack("!II", 8 + len(_STARTUP_PARAMETERS), 3 << 16) + _STARTUP_PARAMETERS
AUTHENTICATION_REQUEST = b"R"


class LocalPostgreSQL(LocalServer):
    """PostgreSQL on 127.0.0.1: UTF-8, the locale C.UTF-8, a superuser with a random password.

    `settings` are configuration parameters. The version is 18, or the one that the environment or `version` chooses.

    PostgreSQL refuses to run as root. If root starts it, it runs as "nobody", from a copy of the binaries that this
    user can read.
    """

    def __init__(self, settings: Mapping[str, str], version: str | None = None) -> None:
        super().__init__("PostgreSQL", signal.SIGINT, STARTUP_MESSAGE, AUTHENTICATION_REQUEST)
        self.version = version or chosen_version()
        self._programs = programs(self.version)
        self.settings = settings
        self.password = secrets.token_hex(16)
        self._parameters = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # files in the data directory, which are removed with it
            **settings,
        }
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{_USER}"

    def close(self) -> None:
        self.stop()  # a server that is killed leaves a little shared memory behind
        super().close()

    def _prepare(self) -> None:
        data = self.directory / "data"
        data.mkdir(mode=0o700)
        if self._user:
            needed = self._programs.needed
            self._finish("sh", "-c", _COPY, str(self._programs.root), str(self.directory), *needed)
            self.directory.chmod(0o711)
            os.chown(data, self._user.pw_uid, self._user.pw_gid)
        self._fill(data)

    def _fill(self, data: Path) -> None:
        """Fill the data directory."""
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if self._user:
            os.chown(password_file, self._user.pw_uid, self._user.pw_gid)
        builtin = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._finish(
            *self._program("initdb"),
            f"--pgdata={data}",
            f"--username={_USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            *(builtin if int(self.version) >= BUILTIN_LOCALE_VERSION_MIN else ["--locale=C.UTF-8"]),
            "--no-instructions",
            "--no-sync",
        )
        password_file.unlink()

    def _launch(self) -> GuardedProcess:
        settings = [f"--{name}={value}" for name, value in self._parameters.items()]
        command = [*self._program("postgres"), "-D", str(self.directory / "data"), f"--port={self.port}", *settings]
        return self._spawn(command, _ENVIRONMENT)

    def _program(self, name: str) -> list[str]:
        """The command that runs one of PostgreSQL's programs as a user that it accepts."""
        root = self.directory if self._user and self._programs.needed else self._programs.root
        program = str(root / self._programs.folder / name)
        if not self._user:
            return [program]
        user = f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"
        return ["setpriv", *user, "--", program]

    def _finish(self, *command: str) -> None:
        """Run a command to its end. Raises ServiceError if it fails or takes longer than _PREPARATION_TIMEOUT_S."""
        process = self._process = self._spawn(command, _ENVIRONMENT)
        try:
            code = process.wait(_PREPARATION_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ServiceError(f"{command[0]} took over {_PREPARATION_TIMEOUT_S:.0f} s") from None
        if code != 0:
            raise ServiceError(f"{command[0]} failed with code {code}:\n{tail(self.log)}")


class LocalStandby(LocalPostgreSQL):
    """A hot standby of another server of this machine. That server must run when this one starts for the first time.

    The primary waits for this standby at each commit if its `synchronous_standby_names` has STANDBY_NAME.
    """

    def __init__(self, primary: LocalPostgreSQL) -> None:
        super().__init__(primary.settings, primary.version)
        self._primary = primary
        self.password = primary.password

    def _fill(self, data: Path) -> None:
        self._finish(
            str(client_program("pg_basebackup")),
            f"--pgdata={data}",
            f"--dbname={self._primary.url}?application_name={STANDBY_NAME}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )
        if self._user:
            self._finish("chown", "-R", f"{self._user.pw_uid}:{self._user.pw_gid}", str(data))
