"""Results as a person reads them."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schema.events import RunStatus
from schema.results import (
    CheckedClaims,
    DoubleExport,
    DoubleExports,
    ExportHistory,
    ExportRun,
    ExportRunWithClaims,
    FoundRuns,
    StaleRuns,
)

_STATUS_STYLES = {
    RunStatus.PENDING: "yellow",
    RunStatus.FAILED: "red",
    RunStatus.PARTIAL: "magenta",
    RunStatus.COMPLETED: "green",
}

LISTED_CLAIMS_MAX = 50
"""A person reads a few claims; a script takes --json."""


def show_history(console: Console, history: ExportHistory) -> None:
    """A page of runs, and how to get the next one."""
    console.print(_runs_table(history.runs))
    total = "more than 10,000" if history.total is None else f"{history.total:,}"
    console.print(f"{len(history.runs)} of {total} runs")
    _show_next(console, history.next_cursor)


def show_found_runs(console: Console, found: FoundRuns) -> None:
    """The runs that carried a claim, and what each did with it."""
    console.print(_runs_table(found.runs, extra=("claim", [run.claim_outcome for run in found.runs])))


def show_run(console: Console, run: ExportRunWithClaims) -> None:
    """One run, fact by fact."""
    facts = run.model_dump(mode="json", exclude={"claim_ids", "skipped_claims", "claim_overrides"}, exclude_none=True)
    facts["claimIds"] = _first_few(run.claim_ids)
    facts["skippedClaims"] = _first_few([f"{each.claim_id} ({each.reason})" for each in run.skipped_claims])
    if run.claim_overrides:
        facts["claimOverrides"] = _first_few(
            [f"{each.claim_id} ({each.approved_by}: {each.reason})" for each in run.claim_overrides]
        )
    _show_facts(console, facts)


def show_checked_claims(console: Console, checked: CheckedClaims) -> None:
    """What has gone out, by which run, what is about to, and what has not."""
    table = Table("claim", "exported", "by run", "finished", box=SIMPLE_HEAD)
    table.columns[2].no_wrap = True
    for claim in checked.exported:
        for run in claim.runs:
            table.add_row(escape(claim.claim_id), "[red]yes", str(run.run_id), _time(run.finished_at))
    for lease in checked.reserved:
        table.add_row(
            escape(lease.claim_id), "[yellow]reserved", str(lease.run_id), f"lease until {_time(lease.expires_at)}"
        )
    for claim_id in checked.unexported:
        table.add_row(escape(claim_id), "[green]no", "", "")
    console.print(table)


def show_double_exports(console: Console, page: DoubleExports) -> None:
    """A page of double exports, and how to get the next one."""
    table = Table("id", "claim", "found", "first run", "second run", "resolved", box=SIMPLE_HEAD)
    for each in page.double_exports:
        second = "the same, twice" if each.first_run_id == each.second_run_id else str(each.second_run_id)
        resolved = f"by {each.resolved_by}: {each.note}" if each.resolved_by else "no"
        table.add_row(
            str(each.id),
            escape(each.claim_id),
            _time(each.detected_at),
            str(each.first_run_id),
            second,
            escape(resolved),
        )
    console.print(table)
    _show_next(console, page.next_cursor)


def show_double_export(console: Console, double_export: DoubleExport) -> None:
    """One double export, fact by fact."""
    _show_facts(console, double_export.model_dump(mode="json", exclude_none=True))


def show_stale_runs(console: Console, stale: StaleRuns) -> None:
    """A page of runs that have not ended, and how to get the next one."""
    console.print(_runs_table(stale.runs, extra=("organisation", [run.org_id for run in stale.runs])))
    _show_next(console, stale.next_cursor)


def _show_next(console: Console, cursor: str | None) -> None:
    if cursor:
        console.print(f"next page: --cursor {cursor}", soft_wrap=True)


def _show_facts(console: Console, facts: Mapping[str, object]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key}: {each}" for key, each in value.items())
        table.add_row(name, escape(str(value)))
    console.print(table)


def _runs_table(runs: Sequence[ExportRun], extra: tuple[str, Sequence[str]] | None = None) -> Table:
    table = Table("created", "run", "status", "format", "by", "claims", "skipped", "notes", box=SIMPLE_HEAD)
    for column in table.columns[:3]:
        column.no_wrap = True
    if extra is not None:
        table.add_column(extra[0])
    for position, run in enumerate(runs):
        notes = ["conflict"] * run.has_conflict + ["deleted"] * (run.deleted_at is not None)
        cells = [
            _time(run.created_at),
            str(run.run_id),
            f"[{_STATUS_STYLES[RunStatus(run.status)]}]{run.status}",
            escape(run.format or "?"),
            escape(run.triggered_by or "?"),
            str(run.claim_count),
            str(run.skipped_count),
            " ".join(notes),
        ]
        table.add_row(*cells, *([extra[1][position]] if extra is not None else []))
    return table


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}"


def _first_few(claims: Sequence[str]) -> str:
    listed = ", ".join(claims[:LISTED_CLAIMS_MAX])
    more = len(claims) - LISTED_CLAIMS_MAX
    return f"{listed} and {more:,} more (--json lists all)" if more > 0 else listed
