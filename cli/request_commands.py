"""The commands that send one request each: history, period, last-export, run, reverse, claims, double-exports and
stale.
"""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Final, TypeVar

import typer

from cli import claim_sentences, result_tables
from cli.broker import broker_errors_explained
from cli.console import Exit, fail, operator_name, read_settings
from cli.request_client import ask, open_client
from cli.terminal import Terminal, out, print_json
from cli.times import age_option
from export_runs_client.errors import RequestFailed
from export_runs_client.schema import operations
from export_runs_client.schema.decoding import InvalidBody, decode
from export_runs_client.schema.events import ClaimOutcome, RunStatus, RunTrigger
from export_runs_client.schema.fields import WireModel
from export_runs_client.schema.limits import FOUND_RUNS_MAX, RUN_CLAIMS_PAGE_DEFAULT, TIMELINE_PAGE_ENTRIES_DEFAULT
from export_runs_client.schema.operations import Operation
from export_runs_client.schema.requests import (
    CheckClaims,
    CheckPeriod,
    ExplainClaim,
    FindRunsByClaimId,
    GetExportHistory,
    GetExportRunById,
    GetLastExport,
    ListDoubleExports,
    ListRunClaims,
    ListStaleRuns,
    ResolveDoubleExport,
    ReverseExport,
)
from export_runs_client.schema.results import ExplainedClaim
from worker.settings import BrokerSettings

Request = TypeVar("Request", bound=WireModel)
Result = TypeVar("Result", bound=WireModel)

request_commands = typer.Typer()
claims = typer.Typer(help="Ask which claims are exported, and why, and which a run has.", no_args_is_help=True)
double_exports = typer.Typer(
    help="List the claims that were exported twice, and note what was done about them.", no_args_is_help=True
)
request_commands.add_typer(claims, name="claims")
request_commands.add_typer(double_exports, name="double-exports")

STALE_AGE_DEFAULT: Final = timedelta(days=1)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, as the contract describes it.")]
OrgArgument = Annotated[str, typer.Argument(metavar="ORG", help="The organisation.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")]
ClaimArgument = Annotated[str, typer.Argument(metavar="CLAIM", help="The claim.")]
OrgOption = Annotated[str | None, typer.Option("--org", help="Only if it belongs to this organisation.")]
TargetSystem = Annotated[str | None, typer.Option(help="Only runs to this system.")]
Scope = Annotated[str | None, typer.Option(help="Only runs of this part of the organisation.")]
Cursor = Annotated[str | None, typer.Option(help="The cursor that the page before ended with.")]


@request_commands.command()
def history(
    org: OrgArgument,
    limit: Annotated[int, typer.Option(help="Runs on a page.")] = 20,
    cursor: Cursor = None,
    offset: Annotated[int | None, typer.Option(help="Runs to skip, instead of a cursor.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs with this status.")] = None,
    target_system: TargetSystem = None,
    created_from: Annotated[str | None, typer.Option(help="RFC 3339 time, inclusive.")] = None,
    created_to: Annotated[str | None, typer.Option(help="RFC 3339 time, inclusive.")] = None,
    run_format: Annotated[str | None, typer.Option("--format", help="Only runs in this format.")] = None,
    triggered_by: Annotated[str | None, typer.Option(help="Only runs that this user started.")] = None,
    external_ack_id: Annotated[
        str | None, typer.Option(help="Only runs that the accounting system acknowledged with this id.")
    ] = None,
    scope: Scope = None,
    trigger: Annotated[RunTrigger | None, typer.Option(help="Only runs that this started.")] = None,
    has_conflict: Annotated[
        bool | None, typer.Option("--conflict/--no-conflict", help="Only runs of which events disagree, or agree.")
    ] = None,
    period_from: Annotated[str | None, typer.Option(help="Only runs with a day of their period from here on.")] = None,
    period_to: Annotated[str | None, typer.Option(help="Only runs with a day of their period up to here.")] = None,
    include_deleted: Annotated[bool, typer.Option("--include-deleted", help="Deleted runs too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs of an organisation page by page, newest first."""
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
        format=run_format,
        triggeredBy=triggered_by,
        externalAckId=external_ack_id,
        scope=scope,
        trigger=trigger,
        hasConflict=has_conflict,
        periodFrom=period_from,
        periodTo=period_to,
        includeDeleted=include_deleted,
    )
    result = _call(operations.GET_EXPORT_HISTORY, request)
    _show(result, as_json, result_tables.show_history)


@request_commands.command()
def period(
    org: OrgArgument,
    start: Annotated[str, typer.Argument(metavar="START", help="The first day, such as 2026-01-01.")],
    end: Annotated[str, typer.Argument(metavar="END", help="The last day, such as 2026-01-31.")],
    target_system: TargetSystem = None,
    scope: Scope = None,
    as_json: AsJson = False,
) -> None:
    """List the runs that may have exported something of a period, newest first; deleted runs too."""
    request = _request(
        CheckPeriod, orgId=org, periodStart=start, periodEnd=end, targetSystem=target_system, scope=scope
    )
    _show(_call(operations.CHECK_PERIOD, request), as_json, result_tables.show_runs_of_period)


@request_commands.command("last-export")
def last_export(
    org: OrgArgument,
    target_system: TargetSystem = None,
    scope: Scope = None,
    as_json: AsJson = False,
) -> None:
    """Show the run that was the last to export something."""
    request = _request(GetLastExport, orgId=org, targetSystem=target_system, scope=scope)
    _show(_call(operations.GET_LAST_EXPORT, request), as_json, result_tables.show_last_export)


@request_commands.command()
def run(run_id: RunArgument, org: OrgOption = None, as_json: AsJson = False) -> None:
    """Show one run with its claims."""
    request = _request(GetExportRunById, runId=run_id, orgId=org)
    _show(_call(operations.GET_EXPORT_RUN_BY_ID, request), as_json, result_tables.show_run)


@request_commands.command()
def reverse(
    org: OrgArgument,
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run that exported them.")],
    reason: Annotated[str, typer.Option(help="Why its exports are taken back.")],
    approved_by: Annotated[str, typer.Option(help="Who has approved that: another person than the one of --by.")],
    claim: Annotated[
        list[str] | None, typer.Option(help="A claim; can be repeated. Without it: all of the run.")
    ] = None,
    reversed_by: Annotated[
        str | None, typer.Option("--by", help="Who does it. Without --by: the user who runs the command.")
    ] = None,
    external_reversal_id: Annotated[
        str | None, typer.Option(help="The id that the accounting system gave to the reversal.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record that exports of a run were taken back: the claims may be exported again. Safe to repeat."""
    request = _request(
        ReverseExport,
        orgId=org,
        runId=run_id,
        claimIds=claim or None,
        reason=reason,
        reversedBy=reversed_by or operator_name(),
        approvedBy=approved_by,
        externalReversalId=external_reversal_id,
    )
    _show(_call(operations.REVERSE_EXPORT, request), as_json, result_tables.show_reversed_export)


@claims.command("list")
def list_claims(
    run_id: RunArgument,
    limit: Annotated[int, typer.Option(help="Claims on a page.")] = RUN_CLAIMS_PAGE_DEFAULT,
    cursor: Cursor = None,
    outcome: Annotated[ClaimOutcome | None, typer.Option(help="Only claims with this outcome.")] = None,
    org: OrgOption = None,
    as_json: AsJson = False,
) -> None:
    """List the claims of one run page by page, with their vouchers, amounts and overrides."""
    request = _request(ListRunClaims, runId=run_id, limit=limit, cursor=cursor, outcome=outcome, orgId=org)
    _show(_call(operations.LIST_RUN_CLAIMS, request), as_json, result_tables.show_run_claims)


@claims.command()
def check(
    org: OrgArgument,
    claim_ids: Annotated[list[str], typer.Argument(metavar="CLAIM", help="The claims.")],
    as_json: AsJson = False,
) -> None:
    """Ask which claims are exported or reserved. The exit code is 4 if one is, and 0 if none is."""
    request = _request(CheckClaims, orgId=org, claimIds=claim_ids)
    checked = _call(operations.CHECK_CLAIMS, request)
    _show(checked, as_json, result_tables.show_checked_claims)
    if checked.exported or checked.reserved:
        raise typer.Exit(Exit.EXPORTED)


@claims.command()
def explain(
    org: OrgArgument,
    claim_id: ClaimArgument,
    limit: Annotated[int, typer.Option(help="Entries of the log on a page.")] = TIMELINE_PAGE_ENTRIES_DEFAULT,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """Explain in sentences how a claim stands, why, and what happened to it, oldest first."""
    request = _request(ExplainClaim, orgId=org, claimId=claim_id, limit=limit, cursor=cursor)

    def show(terminal: Terminal, explained: ExplainedClaim) -> None:
        claim_sentences.show_explained_claim(terminal, request, explained)

    _show(_call(operations.EXPLAIN_CLAIM, request), as_json, show)


@claims.command()
def find(
    claim_id: ClaimArgument,
    org: OrgOption = None,
    limit: Annotated[int, typer.Option(help="Runs to list, the newest.")] = FOUND_RUNS_MAX,
    as_json: AsJson = False,
) -> None:
    """Find the runs that carried a claim."""
    request = _request(FindRunsByClaimId, claimId=claim_id, orgId=org, limit=limit)
    _show(_call(operations.FIND_RUNS_BY_CLAIM_ID, request), as_json, result_tables.show_found_runs)


@double_exports.command("list")
def list_double_exports(
    org: OrgArgument,
    limit: Annotated[int, typer.Option(help="Double exports on a page.")] = 20,
    cursor: Cursor = None,
    resolved: Annotated[
        bool | None, typer.Option("--resolved/--unresolved", help="Only those that are resolved, or are not.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the claims that were exported twice, in the order of the claims."""
    request = _request(ListDoubleExports, orgId=org, limit=limit, cursor=cursor, resolved=resolved)
    _show(_call(operations.LIST_DOUBLE_EXPORTS, request), as_json, result_tables.show_double_exports)


@double_exports.command()
def resolve(
    org: OrgArgument,
    claim_id: ClaimArgument,
    note: Annotated[str, typer.Option(help="What was done about it.")],
    resolved_by: Annotated[
        str | None, typer.Option("--by", help="Who did it. Without --by: the user who runs the command.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(help="Only if it has so many runs: no other has joined meanwhile.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Note what was done about a double export, with all its runs. Safe to repeat."""
    who = resolved_by or operator_name()
    request = _request(ResolveDoubleExport, orgId=org, claimId=claim_id, resolvedBy=who, note=note, runCount=runs)
    _show(_call(operations.RESOLVE_DOUBLE_EXPORT, request), as_json, result_tables.show_double_export)


@request_commands.command()
def stale(
    older_than: Annotated[
        timedelta,
        typer.Option(
            "--older-than",
            parser=age_option,
            metavar="AGE",
            show_default="1d",
            help="Only runs that started longer ago than this: 90s, 15m, 2h, 3d.",
        ),
    ] = STALE_AGE_DEFAULT,
    org: Annotated[str | None, typer.Option("--org", help="Only runs of this organisation.")] = None,
    limit: Annotated[int, typer.Option(help="Runs on a page.")] = 20,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List runs that started long ago and have not ended, oldest first."""
    age_s = int(older_than.total_seconds())
    request = _request(ListStaleRuns, olderThanSeconds=age_s, orgId=org, limit=limit, cursor=cursor)
    _show(_call(operations.LIST_STALE_RUNS, request), as_json, result_tables.show_stale_runs)


def _call(operation: Operation[Request, Result], request: Request) -> Result:
    settings = read_settings(BrokerSettings)

    async def call() -> Result:
        async with open_client(settings) as link:
            return await ask(link, operation, request)

    with broker_errors_explained():
        try:
            return asyncio.run(call())
        except RequestFailed as failed:
            code = Exit.UNREACHABLE if failed.error.retryable else Exit.REFUSED
            details = [f"  {each.field}: {each.message}" for each in failed.error.details]
            fail(code, f"{failed.error.code}: {failed.error.message}", *details)


def _show(result: Result, as_json: bool, show: Callable[[Terminal, Result], None]) -> None:
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        show(out, result)


def _request(model: type[Request], **fields: object) -> Request:
    """A request made from the command line, validated as the worker validates it."""
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return decode(model, json.dumps(given).encode())
    except InvalidBody as invalid:
        fail(Exit.USAGE, str(invalid))
