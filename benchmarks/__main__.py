"""`python -m benchmarks`: measure, and show each result beside its goal. A goal that is missed is no error."""

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.databases import create_template
from benchmarks.load import declare_queues
from benchmarks.peers import environment
from benchmarks.results import Pair
from benchmarks.rows import ONE_OFF_ROWS, ROWS, Row
from benchmarks.sizes import FULL, QUICK
from local.postgresql import AS_SHIPPED
from local.processes import tail
from local.services import ServiceError, services

FOLDER: Final = Path(__file__).parent
TABLE_COLUMNS_MIN: Final = 160


def main() -> int:
    """Run the benchmarks. Returns the exit code."""
    arguments = _arguments()
    rows = [row for row in (*ROWS, *ONE_OFF_ROWS) if row.name in arguments.only] if arguments.only else list(ROWS)
    for name in (environment.AMQP_URL, environment.DATABASE_URL):
        os.environ.pop(name, None)  # the benchmarks fill queues and databases, so they use only services of their own
    console = Console()
    console.width = max(console.width, TABLE_COLUMNS_MIN)
    with tempfile.TemporaryDirectory(prefix="export-runs-benchmarks-") as scratch:
        try:
            uvloop.run(_run(arguments, rows, console, Path(scratch) / "processes.log"))
        except ServiceError as error:
            console.print(str(error), markup=False)
            return 1
    return 0


async def _run(arguments: argparse.Namespace, rows: list[Row], console: Console, log: Path) -> None:
    sizes = QUICK if arguments.quick else FULL
    start_s = perf_counter()
    with services(postgresql_settings=AS_SHIPPED) as running:
        await create_template(running)
        await declare_queues(running.amqp_url)
        try:
            results = await _measure(Bench(running, sizes, log), rows, console)
        except BaseException:
            console.print(tail(log), markup=False)
            raise
        setting = await report.setting(running)
    console.print(report.table(results, setting))
    console.print(f"It took {perf_counter() - start_s:.0f} s.", style="dim")
    report.write_json(arguments.json, results, setting, asdict(sizes))
    if arguments.write_readme:
        report.write_readme(FOLDER / "README.md", report.markdown(results, setting))


async def _measure(bench: Bench, rows: list[Row], console: Console) -> list[tuple[Row, Pair]]:
    columns = TextColumn("{task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    results: list[tuple[Row, Pair]] = []
    # The progress is drawn only when it changes: a thread that draws it again and again would take time from the load.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("", total=len(rows), name="")
        bench.say = partial(_say, progress, task)
        for row in rows:
            progress.update(task, name=row.name, description="", refresh=True)
            try:
                results.append((row, await row.measure(bench)))
            except ServiceError as error:  # it needs a program that cannot be had here; the others do not
                console.print(f"{row.name} is left out: {error}", markup=False)
            progress.advance(task)
    return results


def _say(progress: Progress, task: TaskID, text: str) -> None:
    progress.update(task, description=text, refresh=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [row.name for row in (*ROWS, *ONE_OFF_ROWS)]
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", choices=names, help=f"measure only these: {', '.join(names)}"
    )
    parser.add_argument("--quick", action="store_true", help="try it out with about a hundredth of everything")
    parser.add_argument("--json", type=Path, default=FOLDER / "last.json", help="the file that gets all samples")
    parser.add_argument("--write-readme", action="store_true", help="write the table into benchmarks/README.md")
    arguments = parser.parse_args()
    if arguments.write_readme and (arguments.quick or arguments.only):
        parser.error("--write-readme needs a complete run: leave out --quick and --only")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
