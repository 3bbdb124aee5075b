#!/bin/sh
# Builds .venv anew from requirements-dev.lock. make runs it. It may be interrupted and repeated.
set -eu
cd "$(dirname "$0")/.."

# One at a time: a process that an interrupted run left behind must not write into the new environment.
exec 9<local/bootstrap.sh
if command -v flock >/dev/null; then flock 9; fi

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# PYTHON may name an interpreter. Otherwise this takes the first of these that is recent enough.
for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11} ""; do
    if [ -z "$python" ]; then
        echo "Python 3.11 or later is needed and none was found; PYTHON=/path/to/python names one." >&2
        exit 1
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
done

# Debian ships ensurepip in a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    echo "Installing $package with apt-get ..."
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package"
fi

"$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch .venv/.installed
