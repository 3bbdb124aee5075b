"""The command `export-runs`.

The commands that only read send requests of the contract, like every other client. Results go to standard output,
everything else to standard error.
"""

import asyncio
import sys
from collections.abc import Sequence
from importlib import metadata
from io import TextIOWrapper
from typing import Annotated, Final, NoReturn
from uuid import UUID

import typer
import uvloop

import sql
from cli.console import DISTRIBUTION, Exit, errors_explained, fail, operator_name, read_settings
from cli.contract.commands import contract_commands
from cli.dead_letters.commands import dead_letters
from cli.event_file import LineCounts, publish_lines
from cli.health_check import ask_health
from cli.imports.commands import import_commands
from cli.imports.compare_command import compare_commands
from cli.log_commands import log_commands
from cli.permissions import permissions
from cli.reports.commands import report_commands
from cli.request_client import open_client
from cli.request_commands import request_commands
from cli.status import status_commands
from cli.terminal import err, out, print_json
from cli.topology import topology_commands
from handlers.purge import Purge, plan_purge, purge_run, unpurge_run
from handlers.restores import Restore
from handlers.restores import after_restore as note_restore
from schema.limits import LEASE_TTL_S_MAX
from schema.results import ExportRun
from worker import logs
from worker.app import run_worker
from worker.broker.malformed_frames import tolerate_malformed_properties
from worker.database.migrations import migrate as apply_migrations
from worker.database.pool import connect
from worker.routes import Part
from worker.settings import HTTP_PORT, BrokerSettings, DatabaseSettings, HttpSettings, WorkerSettings
from worker.supervisor import REFUSED_BY_PART, supervise

COMMAND: Final = "export-runs"

EXIT_CODES_HELP: Final = (
    "Exit codes: 0 done, 1 refused, 2 wrong usage or environment, 3 a service does not answer, "
    "4 (claims check) at least one claim is exported or reserved."
)

app = typer.Typer(
    help="The record of every export run: which expense claims are already exported.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(request_commands)
app.add_typer(log_commands)
app.add_typer(status_commands)
app.add_typer(contract_commands)
app.add_typer(topology_commands)
app.add_typer(import_commands)
app.add_typer(compare_commands)
app.add_typer(report_commands)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(permissions, name="permissions")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        out.print_line(f"{COMMAND} {metadata.version(DISTRIBUTION)}")
        raise typer.Exit(Exit.DONE)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options without a command."""


@app.command()
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


@app.command()
def health(as_json: AsJson = False) -> None:
    """Ask the worker on this machine whether it can work. Needs EXPORT_RUNS_HTTP_PORT, the same as the worker's.

    Exit code 0 if it can, 1 if it cannot, and why; 3 if nobody answers on the port.
    """
    settings = read_settings(HttpSettings)
    if settings.http_port is None:
        fail(Exit.USAGE, f"{HTTP_PORT}: is not set")
    answer = ask_health(settings.http_host, settings.http_port)
    if answer is None:
        fail(Exit.UNREACHABLE, f"no worker answers on {settings.http_host} port {settings.http_port}")
    if as_json:
        print_json(answer)
    else:
        out.print_line("the worker can work" if answer["ok"] else "the worker cannot work")
        for part, obstacles in answer["obstacles"].items():
            for obstacle in obstacles:
                out.print_line(f"{part}: {obstacle}")
    raise typer.Exit(Exit.DONE if answer["ok"] else Exit.REFUSED)


@app.command()
def migrate(
    repeat: Annotated[
        str | None,
        typer.Option(help="Apply this migration once more, when the last worker of the version before it has ended."),
    ] = None,
    roles: Annotated[
        bool, typer.Option("--roles", help="Print the SQL that makes the roles of the service, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the schema of the database up to date. Safe to repeat, and to run in several places at once."""
    if roles:
        out.print_text(sql.roles())
        return
    settings = read_settings(DatabaseSettings)
    repeatable = [migration.name for migration in sql.migrations() if not migration.in_transaction]
    if repeat is not None and repeat not in repeatable:
        raise typer.BadParameter(f"must be one of {', '.join(repeatable)}", param_hint="--repeat")
    with errors_explained():
        applied = asyncio.run(apply_migrations(settings, sql.migrations(), err.print_line, repeat=repeat))
    if as_json:
        print_json({"applied": [{"version": each.version, "name": each.name} for each in applied]})
        return
    for migration in applied:
        out.print_line(f"applied {migration.version:04} {migration.name}")
    if not applied and repeat is None:
        out.print_line("nothing to do: the schema is up to date")


@app.command()
def purge(
    run_id: Annotated[UUID, typer.Argument(help="The run.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without --yes the command only says what it would do.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a run for good. Claims that no other run exported are unexported afterwards.

    The event log keeps the events of the run, and a tombstone. Disabled unless EXPORT_RUNS_PURGE_ENABLED=true.
    """
    settings = read_settings(DatabaseSettings)
    if yes and not settings.purge_enabled:
        fail(Exit.REFUSED, "purging is disabled; EXPORT_RUNS_PURGE_ENABLED=true allows it")

    async def run() -> Purge | None:
        async with connect(settings) as connection:
            if yes:
                return await purge_run(connection, run_id, operator_name())
            return await plan_purge(connection, run_id)

    with errors_explained():
        purged = asyncio.run(run())
    if purged is None:
        fail(Exit.REFUSED, "there is no such run")
    if as_json:
        facts = {"runId": str(run_id), "orgId": purged.run.org_id, "status": purged.run.status}
        print_json({**facts, "freedClaims": purged.freed_claims, "dryRun": not yes})
    else:
        did, does = ("purged", "counts") if yes else ("would purge", "would count")
        out.print_line(f"{did} run {run_id} of {purged.run.org_id}, status {purged.run.status}")
        for claim_id in purged.freed_claims:
            out.print_line(f"claim {claim_id} {does} as unexported now: it can be paid again")
        if not purged.freed_claims:
            out.print_line("no claim changes")
    if not yes:
        err.print_line("nothing was done; add --yes to do it")


@app.command()
def unpurge(
    run_id: Annotated[UUID, typer.Argument(help="The run.")],
    as_json: AsJson = False,
) -> None:
    """Bring back a run that was purged, from the event log. What it exported is exported again.

    Events of it that came meanwhile are dead letters with the code RUN_PURGED: replay them afterwards.
    """

    async def run() -> ExportRun | None:
        async with connect(read_settings(DatabaseSettings)) as connection:
            return await unpurge_run(connection, run_id, operator_name())

    with errors_explained():
        restored = asyncio.run(run())
    if restored is None:
        fail(Exit.REFUSED, "no run with this id was purged")
    if as_json:
        print_json(restored.model_dump(mode="json"))
    else:
        out.print_line(f"run {run_id} is back, {restored.status}")


@app.command("after-restore")
def after_restore(
    held_s: Annotated[
        int,
        typer.Option(
            "--leases-end-in-s",
            min=0,
            max=LEASE_TTL_S_MAX,
            help="How long the longest lease lasts that may have been granted since the backup. 0: there is none.",
        ),
    ] = LEASE_TTL_S_MAX,
    as_json: AsJson = False,
) -> None:
    """Take a database into use that was restored from a backup. Run it before the workers start.

    Leases that were granted since the backup are forgotten, so no claim is granted until they are over. Fencing
    tokens go on above all that were given.
    """

    async def run() -> Restore:
        async with connect(read_settings(DatabaseSettings)) as connection:
            return await note_restore(connection, held_s)

    with errors_explained():
        restore = asyncio.run(run())
    held_until = restore.grants_held_until.isoformat(timespec="seconds")
    if as_json:
        print_json({"fencingToken": restore.fencing_token, "grantsHeldUntil": held_until})
    else:
        out.print_line(f"no claim is granted before {held_until}")
        out.print_line(f"fencing tokens are greater than {restore.fencing_token}")


@app.command()
def publish(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="JSON Lines, one event per line; - is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate the events, publish nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish events from a file; RabbitMQ confirms each. Safe to repeat.

    A line is an event of the contract with its type beside its fields:
    {"type": "run-created", "eventId": "...", ...}. Invalid lines are reported and skipped, and the exit code is 1.
    """
    counts = LineCounts()
    settings = None if dry_run else read_settings(BrokerSettings)

    async def run() -> None:
        if settings is None:
            await publish_lines(file, None, counts, err.print_line)
            return
        async with open_client(settings) as client:
            await publish_lines(file, client.publish_event, counts, err.print_line)

    with errors_explained():
        try:
            asyncio.run(run())
        finally:
            if as_json:
                print_json({"dryRun": dry_run, "valid": counts.valid, "invalid": counts.invalid})
            else:
                out.print_line(f"{counts.valid:,} {'valid' if dry_run else 'published'}, {counts.invalid:,} invalid")
    if counts.invalid:
        raise typer.Exit(Exit.REFUSED)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the command: run it with these arguments, or with those of the process, and exit."""
    tolerate_malformed_properties()
    logs.configure("error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the locale may lack a character that is to be printed
    try:
        code = app(arguments, prog_name=COMMAND, standalone_mode=False)
    except typer.TyperException as error:
        code = _explain_usage(error)
    sys.exit(code)


def _explain_usage(error: typer.TyperException) -> int:
    """Print what is wrong with the command line. Typer would print parts of it raw."""
    context, message = getattr(error, "ctx", None), error.format_message()
    if message:  # a command without arguments has printed its help instead
        if context is not None:
            err.print_line(context.get_usage())
            err.print_line(f"Try '{context.command_path} --help' for help.")
        err.print_line(f"Error: {message}")
    return error.exit_code
