"""Run `export-runs` in a process that is forked from one that has imported it already.

Its imports take most of a command's time, and some tests run many commands. Everything else is as for any command: a
process of its own, an environment, an exit code.
"""

import asyncio
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

from cli.main import COMMANDS, main
from tests.commands import COMMAND_TIMEOUT_S, Finished, environment
from worker.settings import WorkerSettings

_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])
for _place in COMMANDS.values():
    resolve_name(_place)  # or each process would import its command anew


async def forked_export_runs(*arguments: str, settings: WorkerSettings, **variables: str) -> Finished:
    """Run `export-runs` with these arguments until it ends, for at most COMMAND_TIMEOUT_S."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _PROCESSES.Process(
            target=_run, args=(arguments, environment(settings, **variables), str(out), str(err)), daemon=True
        )
        process.start()
        try:
            await asyncio.to_thread(process.join, COMMAND_TIMEOUT_S)
        finally:
            process.kill()
            process.join()
        assert process.exitcode is not None
        finished = Finished(process.exitcode, out.read_text(), err.read_text())
        process.close()
        return finished


def _run(arguments: Sequence[str], variables: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for path, descriptor in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
    main(list(arguments))
