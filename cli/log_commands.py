"""The commands about the event log as a whole: verify and rebuild."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from cli.console import AsJson, Exit
from cli.database import long_session
from cli.errors import errors_explained
from cli.terminal import err, out, print_json
from cli.times import age_option
from handlers.rebuild import OTHERS_WAIT_MAX_S, Rebuild, RebuildPlan, plan_rebuild
from handlers.rebuild import rebuild as rebuild_tables
from handlers.verification import Difference, Verification
from handlers.verification import verify as verify_tables
from schema.fields import counted
from sql.replayed_tables import OUTSIDE

log_commands = typer.Typer()

OUTSIDE_TEXT = "Leases, and alerts that wait, do not follow from the log: they are not compared"


@log_commands.command()
def verify(
    org_id: Annotated[str | None, typer.Option("--org", help="Only this organisation.")] = None,
    since: Annotated[
        timedelta | None,
        typer.Option(
            parser=age_option,
            metavar="AGE",
            help="Only organisations that the log has an entry of since then: 2h, 1d.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the tables with the event log, row by row, while workers go on. Exit code 1 if something differs.

    The whole log of an organisation is replayed, so its runs, claims, overrides and double exports are compared. Leases
    and alerts that wait do not follow from the log, and are not compared. It changes nothing.
    """
    if org_id is not None and since is not None:
        raise typer.BadParameter("give either --org or --since")

    async def run(report: Callable[[int, int], None]) -> Verification:
        since_time = datetime.now(UTC) - since if since is not None else None
        async with long_session(idle_in_transaction_session_timeout="0") as connection:
            return await verify_tables(connection, report, org_id=org_id, since=since_time)

    with errors_explained(), err.progress_bar("verifying") as show_progress:
        verification = asyncio.run(run(show_progress))
    if as_json:
        print_json(
            {
                "entries": verification.entry_count,
                "rows": verification.row_counts,
                "differenceCount": verification.difference_count,
                "differences": [_difference_json(difference) for difference in verification.differences],
                "notCompared": list(OUTSIDE),
            }
        )
    else:
        _print_verification(verification)
    if verification.difference_count:
        raise typer.Exit(Exit.REFUSED)


@log_commands.command()
def rebuild(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made anew, and what is in the way. Change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the tables anew from the event log, while workers go on, and put them in the place of those that are stored.

    It needs room on the disk for the tables once more. Everybody waits for a moment at the end, when the tables are
    exchanged. If somebody holds a table for long then, nothing is changed, and the exit code is 1. Leases and alerts
    that wait do not follow from the log: they stay as they are. Safe to repeat, also after it was killed.
    """
    if dry_run:
        _plan_rebuild(as_json)
        return

    async def run(report: Callable[[int, int], None]) -> Rebuild:
        parameters = {
            # What is written before the exchange is worth nothing without it, and its commit waits for all of it.
            "synchronous_commit": "off",
            # A command that stands still must not keep others waiting.
            "idle_in_transaction_session_timeout": str(round(1000 * OTHERS_WAIT_MAX_S)),
        }
        async with long_session(**parameters) as connection:
            return await rebuild_tables(connection, report, err.print_line)

    with errors_explained(), err.progress_bar("rebuilding") as show_progress:
        rebuilt = asyncio.run(run(show_progress))
    if as_json:
        print_json({"dryRun": False, "entries": rebuilt.entry_count, "tables": list(rebuilt.tables)})
    else:
        out.print_line(f"made anew from {_entries(rebuilt.entry_count)}: {', '.join(rebuilt.tables)}")


def _plan_rebuild(as_json: bool) -> None:
    async def run() -> RebuildPlan:
        async with long_session() as connection:
            return await plan_rebuild(connection)

    with errors_explained():
        plan = asyncio.run(run())
    if as_json:
        facts = {"dryRun": True, "entries": plan.entry_count, "tables": list(plan.tables)}
        print_json({**facts, "storedBytes": plan.stored_bytes, "obstacles": list(plan.obstacles)})
    else:
        out.print_line(f"would make anew from about {_entries(plan.entry_count)}: {', '.join(plan.tables)}")
        out.print_line(f"they take {plan.stored_bytes / 2**20:,.0f} MiB, and need as much room once more")
        for obstacle in plan.obstacles:
            out.print_line(f"in the way: {obstacle}")
    err.print_line("nothing was done; leave out --dry-run to do it")
    if plan.obstacles:
        raise typer.Exit(Exit.REFUSED)


def _entries(count: int) -> str:
    return counted(count, "log entry", "log entries")


def _print_verification(verification: Verification) -> None:
    for difference in verification.differences:
        out.print_line(_sentence(difference))
    unlisted = verification.difference_count - len(verification.differences)
    if unlisted:
        out.print_line(f"and {unlisted:,} more")
    rows = ", ".join(f"{count:,} {table}" for table, count in verification.row_counts.items())
    out.print_line(f"replayed {_entries(verification.entry_count)}: {rows}")
    out.print_line(f"{counted(verification.difference_count, 'difference')}. {OUTSIDE_TEXT}.")


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "table": difference.table,
        "key": difference.key,
        "byLog": difference.by_log,
        "stored": difference.stored,
    }


def _sentence(difference: Difference) -> str:
    row = f"{difference.table} {_text(difference.key)}"
    if difference.by_log is None:
        return f"{row} is stored, but does not follow from the log: {_text(difference.stored)}"
    if difference.stored is None:
        return f"{row} is missing, by the log it is {_text(difference.by_log)}"
    return f"{row} is {_text(difference.stored)}, by the log it is {_text(difference.by_log)}"


def _text(columns: dict[str, Any] | None) -> str:
    return json.dumps(columns, ensure_ascii=False)
