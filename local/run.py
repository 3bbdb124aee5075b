"""`make run`: run the services and a worker until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from local.processes import GuardedProcess, ServiceError, say
from local.services import services

_EXPORT_RUNS = Path(sys.executable).with_name("export-runs")
_WORKER_STOP_TIMEOUT_S = 30.0


def main() -> int:
    """Run until Ctrl-C, SIGTERM or the worker's end. Returns the exit code, 0 after a Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        say("Starting RabbitMQ and PostgreSQL ...")
        with services() as running:
            environment = {**os.environ, **running.environment()}
            subprocess.run([_EXPORT_RUNS, "migrate"], env=environment, check=True)
            for name, url in running.environment().items():
                print(f"export {name}={url}", flush=True)
            say("The worker is running; Ctrl-C stops it. Paste the two lines above into another terminal to use it.")
            return _run_worker(environment)
    except KeyboardInterrupt:
        return 0
    except ServiceError as error:
        say(str(error))
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode


def _run_worker(environment: dict[str, str]) -> int:
    """Run the worker until it ends, or until a KeyboardInterrupt, which stops it. Returns its exit code."""
    worker = GuardedProcess([_EXPORT_RUNS, "worker"], environment=environment)
    try:
        return worker.wait()
    except KeyboardInterrupt:
        say("Stopping ...")
        return worker.stop(signal.SIGTERM, _WORKER_STOP_TIMEOUT_S)


if __name__ == "__main__":
    sys.exit(main())
