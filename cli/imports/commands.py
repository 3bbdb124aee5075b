"""The command `export-runs import`."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from pydantic import TypeAdapter, ValidationError

import sql
from cli.console import AsJson, Exit, fail, new_file_option, read_settings
from cli.errors import errors_explained
from cli.imports.mapping import read_mapping
from cli.imports.plan import ImportPlan, Plan
from cli.imports.publishing import publish_events, until_stored
from cli.imports.recognition import open_record_file
from cli.imports.records import RecordFile
from cli.imports.rejects import default_names, write_rejects
from cli.imports.suggestion import suggested_mapping
from cli.request_client import open_client, publish_event
from cli.terminal import Column, ResultTable, err, out, print_json
from schema.fields import Name, amount_text, counted
from sql.connection import Connection
from worker.database.gate import Gate
from worker.database.pool import connect, session_settings
from worker.settings import DATABASE_URL, BrokerSettings, DatabaseSettings

RATE_MAX: Final = 100_000
PRINTED_MAX: Final = 20
"""Reasons and double exports that are printed; --json has more."""

REJECTS_HELP: Final = (
    "The file to make for refused rows. There must be none. The default is FILE with .rejects in its name, and with a "
    "number where that is there already."
)

import_commands = typer.Typer()


def _source_option(text: str) -> str:
    try:
        name: str = TypeAdapter(Name).validate_python(text)
    except ValidationError:
        raise typer.BadParameter("must have 1 to 200 characters, and no control characters") from None
    return name


@import_commands.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, XLSX or JSON Lines.")],
    mapping: Annotated[Path | None, typer.Option(help="TOML: which column is which field.")] = None,
    source: Annotated[
        str | None,
        typer.Option(parser=_source_option, metavar="NAME", help="The name of these records. Ids are made from it."),
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest-mapping", help="Print a mapping for this file, made from its headings.")
    ] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Publish the events. Without it the command only says what it would do.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing. This is the default.")] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(parser=new_file_option, metavar="PATH", help=REJECTS_HELP),
    ] = None,
    alerts: Annotated[
        bool, typer.Option("--alerts", help="Publish alerts of double exports among these records.")
    ] = False,
    rate: Annotated[int | None, typer.Option(min=1, max=RATE_MAX, help="At most so many events a second.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import old records from a spreadsheet or a list. Safe to repeat: what is there already is not changed.

    Without --apply it only says what it would do: which rows cannot be used, and which claims were exported twice. It
    needs no service for that; with EXPORT_RUNS_DATABASE_URL it says what is known already. Exit code 1 if there are
    refused rows.
    """
    if suggest:
        _print_suggestion(file)
        return
    if mapping is None or source is None:
        raise typer.BadParameter(
            "is needed; --suggest-mapping writes one" if mapping is None else "is needed",
            param_hint="--mapping" if mapping is None else "--source",
        )
    if apply and dry_run:
        raise typer.BadParameter("give either --apply or --dry-run")
    with errors_explained(), TemporaryDirectory(prefix="export-runs-import-") as folder:
        columns = read_mapping(mapping)
        records = open_record_file(file, columns)
        with ImportPlan(source, columns, records, Path(folder), with_alerts=alerts) as importing:
            stored = asyncio.run(_run(importing, apply=apply, rate=rate))
            plan = importing.plan
            rejects_path = write_rejects(records, importing.rejects(), rejects) if plan.rejected_rows else None
    facts = _facts(plan, stored, apply=apply)
    facts["recognised"] = records.description
    facts["rejects"]["file"] = None if rejects_path is None else str(rejects_path)
    if as_json:
        print_json(facts)
    else:
        _print_plan(plan, stored, records, rejects_path, apply=apply)
    if plan.rejected_rows or (apply and stored != plan.events):
        raise typer.Exit(Exit.REFUSED)


def _print_suggestion(file: Path) -> None:
    """Print a mapping, and on standard error what a person must know of it: the mapping often goes to a file."""
    with errors_explained():
        suggestion = suggested_mapping(file)
    out.print_text(suggestion.toml)
    for note in suggestion.notes:
        err.print_line(note)


async def _run(importing: ImportPlan, *, apply: bool, rate: int | None) -> int:
    """Read, build, and publish if that is wanted; returns how many of the new events are stored."""
    broker = read_settings(BrokerSettings) if apply else None
    async with _database(is_needed=apply) as connection:
        with err.progress_bar("reading") as report:
            importing.read_rows(report)
        with err.progress_bar("comparing") as report:
            await importing.build(connection, report)
        if apply and importing.plan.rows_of_no_run:
            return 0
        total = importing.plan.events
        if broker is None or connection is None or not total:
            return 0
        async with open_client(broker) as link:
            publish = partial(publish_event, link)
            with err.progress_bar("publishing") as report:
                await publish_events(importing.events(), publish, rate, lambda done: report(done, total))
        with err.progress_bar("storing") as report:
            ids = (UUID(event_id) for _, _, event_id, _ in importing.events())
            return await until_stored(connection, ids, lambda done: report(done, total))


@asynccontextmanager
async def _database(*, is_needed: bool) -> AsyncIterator["Connection | None"]:
    """The database, if it is needed or the environment names one."""
    if not is_needed and DATABASE_URL not in os.environ:
        with nullcontext():
            yield None
        return
    settings = read_settings(DatabaseSettings)
    async with connect(settings, session_settings(settings)) as connection:
        await Gate(sql.migrations(), {}).check(connection)
        yield connection


def _facts(plan: Plan, stored: int, *, apply: bool) -> dict[str, Any]:
    return {
        "dryRun": not apply,
        "rows": {
            "read": plan.rows,
            "ignored": plan.ignored_rows,
            "copies": plan.copied_rows,
            "rejected": plan.rejected_rows,
            "withoutRun": plan.rows_of_no_run,
        },
        "new": {"runs": plan.runs, "claims": plan.claims, "events": plan.events, "eventsStored": stored},
        "known": {"runs": plan.known_runs, "claims": plan.known_claims},
        "rejects": {
            "runs": plan.rejected_runs,
            "reasons": dict(plan.reasons.counts.most_common()),
            "firstRows": plan.reasons.first_rows,
        },
        "doubleExports": {
            "count": plan.double_exports,
            "amounts": {currency: amount_text(amount) for currency, amount in sorted(plan.double_amounts.items())},
            "claims": [
                {
                    "orgId": each.org_id,
                    "claimId": each.claim_id,
                    "runIds": each.run_ids,
                    "runKeys": each.run_keys,
                    "amounts": each.amounts,
                    "currency": each.currency,
                }
                for each in plan.listed
            ],
        },
        "shortClaimIds": plan.short_claim_ids,
    }


def _print_plan(plan: Plan, stored: int, records: RecordFile, rejects: Path | None, *, apply: bool) -> None:
    out.print_line(f"{records.description}; {counted(plan.rows, 'row')}")
    if plan.ignored_rows:
        out.print_line(f"{counted(plan.ignored_rows, 'row is', 'rows are')} about no export, and left out")
    if plan.copied_rows:
        out.print_line(
            f"{counted(plan.copied_rows, 'row is a copy', 'rows are copies')} of another row of the run, and left out"
        )
    if plan.short_claim_ids:
        out.print_line(
            f"{counted(plan.short_claim_ids, 'claim id has', 'claim ids have')} fewer than {plan.claim_digits} digits, "
            "others begin with zeros: "
            "if a spreadsheet took zeros away, set claim_digits in the mapping"
        )
    out.print_line(
        f"{counted(plan.runs, 'new run')} with {counted(plan.claims, 'claim')}; "
        f"{counted(plan.known_runs, 'run is', 'runs are')} known already"
    )
    for line in plan.reasons.lines(PRINTED_MAX):
        out.print_line(f"refused: {line}")
    if rejects is not None:
        out.print_line(
            f"{counted(plan.rejected_rows, 'refused row is', 'refused rows are')} in {rejects}: "
            "mend that file and import it"
        )
        first = default_names(records.path)[0]
        if rejects in default_names(records.path)[1:]:
            out.print_line(f"{first} was there before, and is left as it is")
    if plan.rows_of_no_run:
        out.print_line(
            f"{counted(plan.rows_of_no_run, 'refused row does', 'refused rows do')} not name the run: nothing is "
            "imported until that is mended or taken out, because a run that was imported without one of its rows can "
            "never get it"
        )
    _print_double_exports(plan)
    if apply and plan.rows_of_no_run:
        fail(Exit.REFUSED, "nothing was imported")
    if apply:
        out.print_line(f"{stored:,} of {counted(plan.events, 'new event is', 'new events are')} stored")
        if stored < plan.events:
            fail(Exit.REFUSED, "not all events are stored: is a worker running? see export-runs dead-letters list")
    else:
        err.print_line("nothing was imported; add --apply to do it")


def _print_double_exports(plan: Plan) -> None:
    if not plan.double_exports:
        out.print_line(
            f"no claim was exported twice{' in the rows that are not refused' if plan.rejected_rows else ''}"
        )
        return
    amounts = ", ".join(f"{currency} {amount_text(amount)}" for currency, amount in sorted(plan.double_amounts.items()))
    out.print_line(
        f"{counted(plan.double_exports, 'claim was', 'claims were')} exported more than once"
        f"{f'; too much: {amounts}' if amounts else ''}"
    )
    table = ResultTable((Column("claim"), Column("organisation")), (Column("amounts"),), (Column("runs"),))
    for each in plan.listed[:PRINTED_MAX]:
        amounts = " + ".join(each.amounts) + (f" {each.currency}" if each.currency else "")
        table.add_row(each.claim_id, each.org_id, amounts, ", ".join(each.run_keys))
    out.print_table(table)
    if plan.double_exports > PRINTED_MAX:
        out.print_line(f"and {plan.double_exports - PRINTED_MAX:,} more; --json lists the first 1,000")
