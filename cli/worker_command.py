"""The command `export-runs worker`."""

import asyncio
import sys
from typing import Annotated

import typer
import uvloop

from cli.console import Exit, fail, read_settings
from cli.errors import errors_explained
from cli.terminal import err, out
from worker.app import run_worker
from worker.routes import Part
from worker.settings import WorkerSettings
from worker.supervisor import REFUSED_BY_PART, supervise

worker_commands = typer.Typer()


@worker_commands.command()
def worker(
    only: Annotated[
        Part | None, typer.Option(help="One part alone, in one process. The default is a process for each part.")
    ] = None,
    supervisor: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the worker until SIGTERM or SIGINT.

    Needs EXPORT_RUNS_AMQP_URL and EXPORT_RUNS_DATABASE_URL. On a signal it stops consuming, finishes
    its work and exits 0. A second signal kills it. One process stores events and another one answers requests; if one
    dies, it is started again.
    """
    settings = read_settings(WorkerSettings)
    if only is None:
        command = (sys.executable, *sys.orig_argv[1:])  # a part is what this process is, with two more options
        with errors_explained():
            code = asyncio.run(supervise(command, settings, err.print_line))
        raise typer.Exit(code)
    explanations = out if supervisor is not None else err  # the supervisor prints what both parts say once
    try:
        with errors_explained(explanations):
            in_time = uvloop.run(run_worker(settings, only=only, supervisor=supervisor))
    except typer.Exit as refused:
        if supervisor is not None and refused.exit_code in (Exit.REFUSED, Exit.USAGE):
            raise typer.Exit(REFUSED_BY_PART + refused.exit_code) from None
        raise
    if not in_time:
        text = "stopped before all work was finished; RabbitMQ redelivers what was not acknowledged"
        fail(Exit.REFUSED, text, to=explanations)
