"""Install a Debian package where it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from local.processes import ServiceError

_OUTPUT_CHARACTERS_MAX = 2_000

# One process at a time: several may need the package in the same moment. With this policy-rc.d, apt does not start the
# service: another process may use its port.
_INSTALL = """
set -e
exec 9</var/lib/dpkg
flock 9
if [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$0" 2>/dev/null)" = installed ]; then exit; fi
policy=/usr/sbin/policy-rc.d
if ! [ -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\\nexit 101\\n' >$policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q 9<&-
apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$0" 9<&-
"""


def install(package: str, advice: str, say: Callable[[str], None]) -> None:
    """Install a package, as root or with a sudo that asks for no password. Raises ServiceError, with the advice."""
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if not all(map(shutil.which, ["apt-get", *as_root[:1]])):
        raise ServiceError(f"{package} is not installed here and cannot be: {advice}")
    say(f"Installing {package} with apt-get, which takes about 15 seconds ...")
    # In a session of its own: a Ctrl-C must not leave the package half installed.
    done = subprocess.run(
        [*as_root, "sh", "-c", _INSTALL, package],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if done.returncode != 0:
        output = done.stdout.strip()[-_OUTPUT_CHARACTERS_MAX:]
        raise ServiceError(f"apt-get could not install {package}; {advice}. It said:\n{output}")
