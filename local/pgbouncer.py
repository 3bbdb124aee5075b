"""A pgbouncer in transaction mode, from the Debian package `pgbouncer`, installed if need be."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from local.debian import install
from local.postgresql import AUTHENTICATION_REQUEST, STARTUP_MESSAGE
from local.processes import GuardedProcess, say
from local.server import LocalServer

SESSIONS_MAX = 6
"""Sessions of PostgreSQL that it lends; far fewer than a worker would open for itself."""

_PROGRAM = Path("/usr/sbin/pgbouncer")

_CONFIGURATION = """
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
server_login_retry = 1
default_pool_size = {sessions_max}
max_client_conn = 1000
ignore_startup_parameters = {ignored}
"""


class LocalPgBouncer(LocalServer):
    """pgbouncer on 127.0.0.1 before one PostgreSQL, for its one user. Run by root, it gets to be "nobody".

    What a session asks for is refused, or with `ignored` (names, separated by commas) dropped.
    """

    def __init__(self, database_url: str, ignored: str = "", say: Callable[[str], None] = say) -> None:
        super().__init__("pgbouncer", signal.SIGTERM, STARTUP_MESSAGE, AUTHENTICATION_REQUEST)
        self._target = urlsplit(database_url)
        self._ignored = ignored
        self._say = say

    @property
    def url(self) -> str:
        return self.before(urlunsplit(self._target))

    def before(self, database_url: str) -> str:
        """The URL of a database of this server that leads through the pgbouncer."""
        user, _, _ = urlsplit(database_url).netloc.rpartition("@")
        return urlunsplit(urlsplit(database_url)._replace(netloc=f"{user}@127.0.0.1:{self.port}"))

    def _prepare(self) -> None:
        if not _PROGRAM.exists():
            install("pgbouncer", "install pgbouncer", self._say)
        users = self.directory / "users"
        users.write_text(f'"{self._target.username}" "{self._target.password}"\n')
        configuration = _CONFIGURATION.format(
            host=self._target.hostname,
            port=self._target.port,
            listen_port=self.port,
            users=users,
            sessions_max=SESSIONS_MAX,
            ignored=self._ignored,
        )
        (self.directory / "pgbouncer.ini").write_text(configuration)
        self.directory.chmod(0o755)

    def _launch(self) -> GuardedProcess:
        command: list[str | Path] = [_PROGRAM, self.directory / "pgbouncer.ini"]
        if os.geteuid() == 0:  # which pgbouncer refuses to run as
            nobody = pwd.getpwnam("nobody")
            command = [
                "setpriv",
                f"--reuid={nobody.pw_uid}",
                f"--regid={nobody.pw_gid}",
                "--clear-groups",
                "--",
                *command,
            ]
        return self._spawn(command, {"PATH": os.defpath, "LC_ALL": "C"})
