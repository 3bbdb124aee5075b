"""The commands that change the database by themselves: migrate, purge, unpurge and after-restore."""

import asyncio
from typing import Annotated
from uuid import UUID

import typer

import sql
from cli.console import AsJson, Exit, fail, operator_name, read_settings
from cli.errors import errors_explained
from cli.terminal import err, out, print_json
from handlers.purge import Purge, plan_purge, purge_run, unpurge_run
from handlers.restores import Restore
from handlers.restores import after_restore as note_restore
from schema.limits import LEASE_TTL_S_MAX
from schema.results import ExportRun
from worker.database.migrations import REPEATABLE
from worker.database.migrations import migrate as apply_migrations
from worker.database.pool import connect
from worker.settings import DatabaseSettings

database_commands = typer.Typer()


@database_commands.command()
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
    if repeat is not None and repeat not in REPEATABLE:
        raise typer.BadParameter(f"must be one of {', '.join(REPEATABLE)}", param_hint="--repeat")
    with errors_explained():
        applied = asyncio.run(apply_migrations(settings, sql.migrations(), err.print_line, repeat=repeat))
    if as_json:
        print_json({"applied": [{"version": each.version, "name": each.name} for each in applied]})
        return
    for migration in applied:
        out.print_line(f"applied {migration.version:04} {migration.name}")
    if not applied and repeat is None:
        out.print_line("nothing to do: the schema is up to date")


@database_commands.command()
def purge(
    run_id: Annotated[UUID, typer.Argument(metavar="RUN_ID", help="The run.")],
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


@database_commands.command()
def unpurge(
    run_id: Annotated[UUID, typer.Argument(metavar="RUN_ID", help="The run.")],
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


@database_commands.command("after-restore")
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
