"""Results of requests as tables for a person to read."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from cli.terminal import Cell, Column, ResultTable, Terminal
from cli.times import age_text, time_text
from export_runs_client.schema.events import RunStatus
from export_runs_client.schema.fields import counted
from export_runs_client.schema.limits import DOUBLE_EXPORT_RUNS_COUNTED_MAX
from export_runs_client.schema.results import (
    CheckedClaims,
    DoubleExport,
    DoubleExports,
    ExportHistory,
    ExportRun,
    ExportRunWithClaims,
    FoundRuns,
    LastExport,
    PeriodRuns,
    ReversedExport,
    RunClaim,
    RunClaimsPage,
    RunReversal,
    StaleRuns,
)

_STATUS_STYLES: Final = {
    RunStatus.PENDING: "yellow",
    RunStatus.FAILED: "red",
    RunStatus.PARTIAL: "magenta",
    RunStatus.COMPLETED: "green",
}

LISTED_CLAIMS_MAX: Final = 50
"""A person reads no more claims than this; --json prints all of them."""

LISTED_REVERSALS_MAX: Final = 5
"""Of one run. Each may have a long reason."""

_RUN_COLUMNS: Final = (
    (Column("created (UTC)", is_whole=True), Column("run", is_whole=True)),
    (Column("status", is_whole=True), Column("notes")),
    (Column("format"), Column("by")),
    (Column("claims", is_number=True), Column("skipped", is_number=True)),
)


def show_history(terminal: Terminal, history: ExportHistory) -> None:
    """Print a page of runs, and how to get the next page."""
    table = ResultTable(*_RUN_COLUMNS)
    for run in history.runs:
        table.add_row(*_run_cells(run))
    terminal.print_table(table)
    total = "more than 10,000 runs" if history.total is None else counted(history.total, "run")
    terminal.print_line(f"{len(history.runs):,} of {total}")
    _show_next(terminal, history.next_cursor)


def show_runs_of_period(terminal: Terminal, answer: PeriodRuns) -> None:
    """Print the runs that may have exported something of a period, and the days that each has in common with it."""
    table = ResultTable(*_RUN_COLUMNS, (Column("from", is_whole=True), Column("to", is_whole=True)))
    for run in answer.runs:
        table.add_row(*_run_cells(run), f"{run.overlap_start}", f"{run.overlap_end}")
    terminal.print_table(table)
    if answer.has_more:
        terminal.print_line(f"only the newest {counted(len(answer.runs), 'run is', 'runs are')} listed")


def show_last_export(terminal: Terminal, answer: LastExport) -> None:
    """Print the run that was the last to export something, one field per line."""
    if answer.run is None:
        terminal.print_line("no run has exported anything")
    else:
        _show_fields(terminal, _run_fields(answer.run))


def show_found_runs(terminal: Terminal, found: FoundRuns) -> None:
    """Print the runs that carried a claim, and what each did with it."""
    table = ResultTable(*_RUN_COLUMNS, (Column("claim", is_whole=True),))
    for run in found.runs:
        table.add_row(*_run_cells(run), run.claim_outcome)
    terminal.print_table(table)
    if found.truncated:
        terminal.print_line(f"only the newest {counted(len(found.runs), 'run is', 'runs are')} listed")


def show_run(terminal: Terminal, run: ExportRunWithClaims) -> None:
    """Print one run, one field per line."""
    fields = _run_fields(run)
    fields["claimIds"] = _first_few(run.claim_ids)
    fields["skippedClaims"] = _first_few(
        [f"{each.claim_id} ({f'{each.code}: ' if each.code else ''}{each.reason})" for each in run.skipped_claims]
    )
    if run.claim_overrides:
        fields["claimOverrides"] = _first_few(
            [f"{each.claim_id} ({each.approved_by}: {each.reason})" for each in run.claim_overrides]
        )
    if run.reversals:
        fields["reversals"] = "; ".join(_reversal_text(each) for each in run.reversals[:LISTED_REVERSALS_MAX])
        if len(run.reversals) > LISTED_REVERSALS_MAX:
            fields["reversals"] = f"{fields['reversals']}; and others (claims list --outcome reversed)"
    _show_fields(terminal, fields)
    if run.claims_next_cursor:
        terminal.print_line("these are the first claims only: see export-runs claims list")


def _reversal_text(reversal: RunReversal) -> str:
    external = f", {reversal.external_reversal_id}" if reversal.external_reversal_id else ""
    count = counted(reversal.claim_count, "claim")
    people = f"by {reversal.reversed_by}, approved by {reversal.approved_by}"
    return f"{count} on {time_text(reversal.reversed_at)} {people}{external}: {reversal.reason}"


def show_reversed_export(terminal: Terminal, answer: ReversedExport) -> None:
    """Print which exports of a run were taken back."""
    exports = counted(len(answer.reversed), "export")
    terminal.print_line(f"taken back of run {answer.run_id}: {exports}, {_first_few(answer.reversed)}")


def show_run_claims(terminal: Terminal, page: RunClaimsPage) -> None:
    """Print a page of the claims of a run, and how to get the next page."""
    table = ResultTable(
        (Column("claim"), Column("reason")),
        (Column("outcome", is_whole=True), Column("code")),
        (Column("amount", is_number=True), Column("voucher")),
        (Column("allowed by"), Column("taken back by")),
    )
    for claim in page.claims:
        table.add_row(
            claim.claim_id,
            _reason(claim),
            claim.outcome or "granted",
            claim.code or "",
            f"{claim.amount or ''} {claim.currency or ''}".strip(),
            claim.voucher_id or claim.voucher_url or "",
            ", ".join(dict.fromkeys(override.approved_by for override in claim.overrides)),
            _reverser(claim),
        )
    terminal.print_table(table)
    _show_next(terminal, page.next_cursor)


def _reason(claim: RunClaim) -> str:
    """Why the claim was skipped, taken back, or allowed to go out again."""
    if claim.reversal is not None:
        return claim.reversal.reason
    return claim.reason or "; ".join(dict.fromkeys(override.reason for override in claim.overrides))


def _reverser(claim: RunClaim) -> str:
    if claim.reversal is None:
        return ""
    external = f" ({claim.reversal.external_reversal_id})" if claim.reversal.external_reversal_id else ""
    return f"{claim.reversal.reversed_by} on {time_text(claim.reversal.reversed_at)}{external}"


def show_checked_claims(terminal: Terminal, checked: CheckedClaims) -> None:
    """Print which claims are exported and by which run, which are reserved, and which are neither."""
    table = ResultTable(
        (Column("claim"),),
        (Column("exported", is_whole=True),),
        (Column("by run", is_whole=True), Column("finished (UTC)", is_whole=True)),
    )
    for claim in checked.exported:
        for run in claim.runs:
            table.add_row(claim.claim_id, Cell("yes", "red"), str(run.run_id), time_text(run.finished_at))
    for lease in checked.reserved:
        expiry = f"lease until {time_text(lease.expires_at)}"
        table.add_row(lease.claim_id, Cell("reserved", "yellow"), str(lease.run_id), expiry)
    for claim_id in checked.unexported:
        table.add_row(claim_id, Cell("no", "green"), "", "")
    terminal.print_table(table)
    if checked.pending_events is not None and checked.pending_events.count:
        waiting = f"{counted(checked.pending_events.count, 'event')} waited to be stored"
        terminal.print_line(f"{waiting} at {time_text(checked.pending_events.as_of)} UTC")


def show_double_exports(terminal: Terminal, page: DoubleExports) -> None:
    """Print a page of double exports, each with its first two runs, and how to get the next page."""
    table = ResultTable(
        (Column("claim"), Column("resolved")),
        (Column("runs", is_number=True), Column("ended (UTC)", is_whole=True)),
        (Column("found (UTC)", is_whole=True), Column("first run", is_whole=True), Column("second run", is_whole=True)),
    )
    for each in page.double_exports:
        run_ids = [str(run.run_id) for run in each.runs]
        second = run_ids[1] if len(run_ids) > 1 else "the same, twice" if each.repeated_in_runs else ""
        table.add_row(
            each.claim_id,
            f"by {each.resolved_by}: {each.note}" if each.resolved_by else "no",
            _run_count(each),
            time_text(each.ended_at) if each.ended_at else "",
            time_text(each.detected_at),
            run_ids[0] if run_ids else "",
            second,
        )
    terminal.print_table(table)
    _show_next(terminal, page.next_cursor)


def show_double_export(terminal: Terminal, double_export: DoubleExport) -> None:
    """Print one double export, one field per line."""
    fields = double_export.model_dump(mode="json", exclude={"runs", "repeated_in_runs"}, exclude_none=True)
    fields["runCount"] = _run_count(double_export)
    fields["runs"] = ", ".join(
        f"{run.run_id} ({f'taken back on {time_text(run.reversed_at)}' if run.reversed_at else run.status})"
        for run in double_export.runs
    )
    if double_export.repeated_in_runs:
        fields["repeatedInRuns"] = ", ".join(map(str, double_export.repeated_in_runs))
    _show_fields(terminal, fields)


def _run_count(double_export: DoubleExport) -> str:
    count = double_export.run_count
    return f"more than {DOUBLE_EXPORT_RUNS_COUNTED_MAX:,}" if count is None else f"{count:,}"


def show_stale_runs(terminal: Terminal, stale: StaleRuns) -> None:
    """Print a page of runs that have not ended, and how to get the next page."""
    table = ResultTable(*_RUN_COLUMNS, (Column("age", is_whole=True), Column("org")))
    now = datetime.now(UTC)
    for run in stale.runs:
        table.add_row(*_run_cells(run), age_text(run.created_at, now), run.org_id)
    terminal.print_table(table)
    _show_next(terminal, stale.next_cursor)


def _show_next(terminal: Terminal, cursor: str | None) -> None:
    if cursor:
        terminal.print_line(f"next page: --cursor {cursor}")


def _show_fields(terminal: Terminal, fields: Mapping[str, object]) -> None:
    texts = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            texts[name] = ", ".join(f"{key}: {each}" for key, each in value.items())
        else:
            texts[name] = str(value)
    terminal.print_fields(texts)


def _run_fields(run: ExportRun) -> dict[str, object]:
    """What is known of a run, without its claims."""
    hidden = {"claim_ids", "skipped_claims", "claim_overrides", "reversals", "claims_next_cursor", "totals"}
    fields: dict[str, object] = run.model_dump(mode="json", exclude=hidden, exclude_none=True)
    if run.totals:
        fields["totals"] = ", ".join(
            f"{total.currency} {total.amount} (claims: {total.claim_count:,})" for total in run.totals
        )
    return fields


def _run_cells(run: ExportRun) -> list[str | Cell]:
    """A row of _RUN_COLUMNS."""
    notes = ["conflict"] * run.has_conflict + ["deleted"] * (run.deleted_at is not None)
    notes += ["future time"] * run.has_future_time + ["totals disagree"] * run.totals_disagree
    notes += ["imported"] * run.imported
    if run.reversed_count:
        notes.append(f"{run.reversed_count:,} taken back")
    return [
        time_text(run.created_at),
        str(run.run_id),
        Cell(run.status, _STATUS_STYLES[run.status]),
        ", ".join(notes),
        run.format or "?",
        run.triggered_by or "?",
        f"{run.claim_count:,}",
        f"{run.skipped_count:,}",
    ]


def _first_few(claims: Sequence[str]) -> str:
    listed = ", ".join(claims[:LISTED_CLAIMS_MAX])
    more = len(claims) - LISTED_CLAIMS_MAX
    return f"{listed} and {more:,} more (--json lists all)" if more > 0 else listed
