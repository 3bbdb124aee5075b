"""The command `export-runs`.

The reading commands speak the request/reply contract like every other client. Results go to standard output,
everything else to standard error.
"""

import asyncio
import getpass
import json
import sys
from collections.abc import Callable
from typing import Annotated, TypeVar
from uuid import UUID

import typer
import uvloop
from rich.console import Console

import sql
from handlers.purge import Purge, plan_purge, purge_run
from schema import operations
from schema.decoding import InvalidBody, decode
from schema.events import RunStatus
from schema.fields import WireModel
from schema.operations import Operation
from schema.requests import (
    CheckClaims,
    FindRunsByClaimId,
    GetExportHistory,
    GetExportRunById,
    ListDoubleExports,
    ListStaleRuns,
    ResolveDoubleExport,
)
from worker import tables
from worker.app import run_worker
from worker.client import open_client
from worker.console import Exit, complain, fail, failures_explained, out, read_settings
from worker.database import connect
from worker.dead_letter_command.cli import dead_letters
from worker.imports import Import, publish_lines
from worker.migrations import migrate as apply_migrations
from worker.settings import BrokerSettings, DatabaseSettings, WorkerSettings

EXIT_CODES_HELP = (
    "Exit codes: 0 done, 1 refused, 2 wrong usage or environment, 3 a service does not answer, "
    "4 (claims check) at least one claim has gone out or is reserved."
)

Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)

app = typer.Typer(
    help="The memory of every export run: which expense claims have already gone out.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
claims = typer.Typer(help="Ask about claims.", no_args_is_help=True)
double_exports = typer.Typer(help="Look at the claims that went out twice.", no_args_is_help=True)
app.add_typer(claims, name="claims")
app.add_typer(double_exports, name="double-exports")
app.add_typer(dead_letters, name="dead-letters")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, as in the contract.")]
Org = Annotated[str | None, typer.Option("--org", help="Only if it belongs to this organisation.")]


@app.command()
def worker() -> None:
    """Run the worker until SIGTERM or SIGINT.

    Needs EXPORT_RUNS_AMQP_URL and EXPORT_RUNS_DATABASE_URL. On a signal it stops consuming, finishes what is
    in hand and exits 0; a second signal kills it.
    """
    settings = read_settings(WorkerSettings)
    with failures_explained():
        in_time = uvloop.run(run_worker(settings))
    if not in_time:
        fail(Exit.REFUSED, "stopped before everything in hand was finished; it will be delivered again")


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date. Safe to repeat, and to run from several places at once."""
    settings = read_settings(DatabaseSettings)

    async def run() -> list[sql.Migration]:
        async with connect(settings) as connection:
            return await apply_migrations(connection, sql.migrations())

    with failures_explained():
        applied = asyncio.run(run())
    for migration in applied:
        out.print(f"applied {migration.version:04} {migration.name}")
    if not applied:
        out.print("nothing to do: the schema is up to date")


@app.command()
def purge(
    run_id: Annotated[UUID, typer.Argument(help="The run.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this: say what would be done.")] = False,
) -> None:
    """Remove a run for good. Claims that no other run exported count as unexported afterwards.

    The event log keeps what happened, and a tombstone. Disabled unless EXPORT_RUNS_PURGE_ENABLED=true.
    """
    settings = read_settings(DatabaseSettings)
    if yes and not settings.purge_enabled:
        fail(Exit.REFUSED, "purging is disabled; EXPORT_RUNS_PURGE_ENABLED=true allows it")

    async def run() -> Purge | None:
        async with connect(settings) as connection:
            if yes:
                return await purge_run(connection, run_id, getpass.getuser())
            return await plan_purge(connection, run_id)

    with failures_explained():
        purged = asyncio.run(run())
    if purged is None:
        fail(Exit.REFUSED, "there is no such run")
    did, does = ("purged", "counts") if yes else ("would purge", "would count")
    out.print(f"{did} run {run_id} of {purged.run.org_id}, status {purged.run.status}", markup=False)
    for claim_id in purged.freed_claims:
        out.print(f"claim {claim_id} {does} as unexported now: it can be paid again", markup=False)
    if not purged.freed_claims:
        out.print("no claim changes")
    if not yes:
        out.print("nothing was done; --yes does it")


@app.command()
def history(
    org: Annotated[str, typer.Argument(help="The organisation.")],
    limit: Annotated[int, typer.Option(help="Runs on a page.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    offset: Annotated[int | None, typer.Option(help="Runs to skip, instead of a cursor.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs with this status.")] = None,
    target_system: Annotated[str | None, typer.Option(help="Only runs to this system.")] = None,
    created_from: Annotated[str | None, typer.Option(help="RFC 3339 time, inclusive.")] = None,
    created_to: Annotated[str | None, typer.Option(help="RFC 3339 time, inclusive.")] = None,
    include_deleted: Annotated[bool, typer.Option("--include-deleted", help="Deleted runs too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Page through an organisation's runs, newest first."""
    request = _request(
        GetExportHistory,
        orgId=org,
        limit=limit,
        cursor=cursor,
        offset=offset,
        status=status,
        targetSystem=target_system,
        createdFrom=created_from,
        createdTo=created_to,
        includeDeleted=include_deleted,
    )
    result = _ask(operations.GET_EXPORT_HISTORY, request)
    _show(result, as_json, tables.show_history)


@app.command()
def run(run_id: Annotated[str, typer.Argument(help="The run.")], org: Org = None, as_json: AsJson = False) -> None:
    """Show one run with its claims."""
    request = _request(GetExportRunById, runId=run_id, orgId=org)
    _show(_ask(operations.GET_EXPORT_RUN_BY_ID, request), as_json, tables.show_run)


@claims.command()
def check(
    org: Annotated[str, typer.Argument(help="The organisation.")],
    claim_ids: Annotated[list[str], typer.Argument(metavar="CLAIM...", help="The claims.")],
    as_json: AsJson = False,
) -> None:
    """Ask which claims have already gone out, or are reserved. Exits with 4 if any is, with 0 if none is."""
    request = _request(CheckClaims, orgId=org, claimIds=claim_ids)
    checked = _ask(operations.CHECK_CLAIMS, request)
    _show(checked, as_json, tables.show_checked_claims)
    if checked.exported or checked.reserved:
        raise typer.Exit(Exit.EXPORTED)


@claims.command()
def find(
    claim_id: Annotated[str, typer.Argument(metavar="CLAIM", help="The claim.")],
    org: Org = None,
    as_json: AsJson = False,
) -> None:
    """Find every run that carried a claim."""
    request = _request(FindRunsByClaimId, claimId=claim_id, orgId=org)
    _show(_ask(operations.FIND_RUNS_BY_CLAIM_ID, request), as_json, tables.show_found_runs)


@double_exports.command("list")
def list_double_exports(
    org: Annotated[str, typer.Argument(help="The organisation.")],
    limit: Annotated[int, typer.Option(help="Double exports on a page.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    resolved: Annotated[bool | None, typer.Option("--resolved/--unresolved", help="Only these.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the claims that went out twice, newest first."""
    request = _request(ListDoubleExports, orgId=org, limit=limit, cursor=cursor, resolved=resolved)
    _show(_ask(operations.LIST_DOUBLE_EXPORTS, request), as_json, tables.show_double_exports)


@double_exports.command()
def resolve(
    number: Annotated[int, typer.Argument(metavar="ID", help="Its number in the list.")],
    note: Annotated[str, typer.Option(help="What was done about it.")],
    resolved_by: Annotated[str | None, typer.Option("--by", help="Who did it; you, if not given.")] = None,
    org: Org = None,
    as_json: AsJson = False,
) -> None:
    """Note that a double export has been dealt with. Safe to repeat."""
    who = resolved_by or getpass.getuser()
    request = _request(ResolveDoubleExport, id=number, resolvedBy=who, note=note, orgId=org)
    _show(_ask(operations.RESOLVE_DOUBLE_EXPORT, request), as_json, tables.show_double_export)


@app.command()
def stale(
    older_than_s: Annotated[int, typer.Option("--older-than-s", help="Seconds since they started.")] = 86_400,
    org: Annotated[str | None, typer.Option("--org", help="Only this organisation's.")] = None,
    limit: Annotated[int, typer.Option(help="Runs on a page.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List runs that started long ago and have not ended, oldest first."""
    request = _request(ListStaleRuns, olderThanSeconds=older_than_s, orgId=org, limit=limit, cursor=cursor)
    _show(_ask(operations.LIST_STALE_RUNS, request), as_json, tables.show_stale_runs)


@app.command()
def publish(
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="JSON Lines, one event a line; - is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate, publish nothing.")] = False,
) -> None:
    """Publish events from a file, each confirmed by the broker. Safe to repeat.

    A line is an event of the contract with its type beside its fields:
    {"type": "run-created", "eventId": "...", ...}. Invalid lines are named and skipped; the exit code is 1 then.
    """

    async def run() -> Import:
        if dry_run:
            return await publish_lines(file, None, complain)
        async with open_client(read_settings(BrokerSettings)) as client:
            return await publish_lines(file, client.publish_event, complain)

    with failures_explained():
        done = asyncio.run(run())
    verb = "valid" if dry_run else "published"
    out.print(f"{done.published:,} {verb}, {done.invalid:,} invalid")
    if done.invalid:
        raise typer.Exit(Exit.REFUSED)


def _ask(operation: Operation[Request, Result], request: Request) -> Result:
    settings = read_settings(BrokerSettings)

    async def ask() -> Result:
        async with open_client(settings) as client:
            return await client.call(operation, request)

    with failures_explained():
        return asyncio.run(ask())


def _show(result: Result, as_json: bool, show: Callable[[Console, Result], None]) -> None:
    if as_json:
        sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    else:
        show(out, result)


def _request(model: type[Request], **fields: object) -> Request:
    """A request from the command line, validated as the worker will."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return decode(model, json.dumps(given).encode())
    except InvalidBody as invalid:
        fail(Exit.USAGE, str(invalid))


def main() -> None:
    """Entry point of the command."""
    app()
