"""The command `export-runs compare`."""

import asyncio
import csv
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from cli.console import AsJson, Exit, FileRefused, new_file_option
from cli.database import long_session
from cli.errors import errors_explained
from cli.imports.commands import PRINTED_MAX
from cli.imports.comparison import Comparison, Difference, DifferenceKind, FileComparison
from cli.imports.mapping import read_mapping
from cli.imports.recognition import open_record_file
from cli.reports.values import csv_text
from cli.terminal import Column, ResultTable, err, out, print_json
from cli.times import day_option
from schema.fields import counted
from sql.replayed_tables import find_stored_tables

compare_commands = typer.Typer()


@compare_commands.command()
def compare(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, XLSX or JSON Lines.")],
    mapping: Annotated[Path, typer.Option(help="TOML: which column is which field, as for import.")],
    first: Annotated[
        date | None, typer.Option("--from", parser=day_option, metavar="DAY", help="The first day of the file's runs.")
    ] = None,
    last: Annotated[
        date | None, typer.Option("--to", parser=day_option, metavar="DAY", help="The last day of the file's runs.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=new_file_option, metavar="PATH", help="The CSV file of all differences to make. There must be none."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a list that people keep with what the service has: which claims only one of them says were exported.

    Claims that one of them exported in the period are looked up in all that the other has. The period is that of the
    file's runs, or that of --from and --to. It changes nothing. Exit code 1 if something differs, or if there are rows
    that cannot be read.
    """
    with errors_explained(), TemporaryDirectory(prefix="export-runs-compare-") as folder:
        columns = read_mapping(mapping)
        with FileComparison(columns, open_record_file(file, columns), Path(folder)) as comparing:
            asyncio.run(_run(comparing, file, first, last))
            comparison = comparing.comparison
            if output is not None:
                _write(output, comparing.differences())
    if as_json:
        print_json(_facts(comparison))
    else:
        _print(comparison)
        if output is not None:
            out.print_line(f"all differences are in {output}")
    if comparison.counts or comparison.unreadable_rows:
        raise typer.Exit(Exit.REFUSED)


async def _run(comparing: FileComparison, file: Path, first: date | None, last: date | None) -> None:
    with err.progress_bar("reading") as show_progress:
        comparing.read_rows(show_progress, first, last)
    comparison = comparing.comparison
    if comparison.first_day is None or comparison.last_day is None:
        raise FileRefused(f"{file}: has no row that can be read; {_reasons(comparison) or 'it has no rows'}")
    if comparison.last_day < comparison.first_day:
        raise FileRefused(f"{file}: the last day, {comparison.last_day}, is before the first, {comparison.first_day}")
    async with (
        long_session(idle_in_transaction_session_timeout="0") as connection,
        (await find_stored_tables(connection)).snapshot(connection),
    ):
        with err.progress_bar("comparing") as show_progress:
            await comparing.compare(connection, show_progress)


def _write(path: Path, differences: Iterable[Difference]) -> None:
    try:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("organisation", "claim", "difference", "file", "service"))
            writer.writerows(
                map(
                    csv_text,
                    (
                        each.org_id,
                        each.claim_id,
                        each.kind.value,
                        *map(", ".join, (each.file_amounts, each.service_amounts)),
                    ),
                )
                for each in differences
            )
    except OSError as error:
        raise FileRefused(f"{path}: cannot be written: {error.strerror}") from error


def _facts(comparison: Comparison) -> dict[str, Any]:
    return {
        "period": {"first": str(comparison.first_day), "last": str(comparison.last_day)},
        "rows": {"read": comparison.rows, "unreadable": comparison.unreadable_rows},
        "reasons": dict(comparison.reasons.counts.most_common(PRINTED_MAX)),
        "claims": {"file": comparison.file_claims, "service": comparison.service_claims},
        "counts": {kind.name: comparison.counts[kind] for kind in DifferenceKind},
        "differences": [
            {
                "orgId": each.org_id,
                "claimId": each.claim_id,
                "difference": each.kind.name,
                "fileAmounts": each.file_amounts,
                "serviceAmounts": each.service_amounts,
            }
            for each in comparison.listed
        ],
    }


def _reasons(comparison: Comparison) -> str:
    return "; ".join(comparison.reasons.lines(PRINTED_MAX))


def _print(comparison: Comparison) -> None:
    out.print_line(f"runs that began from {comparison.first_day} to {comparison.last_day}")
    out.print_line(
        f"the file exported {counted(comparison.file_claims, 'claim')} then, the service {comparison.service_claims:,}"
    )
    if comparison.unreadable_rows:
        out.print_line(
            f"{comparison.unreadable_rows:,} of {counted(comparison.rows, 'row')} cannot be read: "
            f"{_reasons(comparison)}"
        )
    if not comparison.counts:
        out.print_line("no claim differs")
        return
    for kind in DifferenceKind:
        out.print_line(f"{comparison.counts[kind]:,} {kind.value}")
    table = ResultTable(
        (Column("claim"), Column("organisation")), (Column("difference"),), (Column("file"), Column("service"))
    )
    for each in comparison.listed[:PRINTED_MAX]:
        amounts = (", ".join(each.file_amounts), ", ".join(each.service_amounts))
        table.add_row(each.claim_id, each.org_id, each.kind.value, *amounts)
    out.print_table(table)
    if comparison.counts.total() > PRINTED_MAX:
        out.print_line(f"and {comparison.counts.total() - PRINTED_MAX:,} more; --output writes all")
