"""The command `export-runs report`."""

import asyncio
import hashlib
import os
import re
from calendar import monthrange
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Final, Protocol, assert_never
from zoneinfo import ZoneInfo, available_timezones

import typer

from cli.console import DISTRIBUTION, Exit, fail
from cli.database import long_session
from cli.errors import errors_explained
from cli.reports.about import Period, Summary, about
from cli.reports.charts import charts_of
from cli.reports.control import ControlTotals, differing
from cli.reports.csv_tables import CsvTable, digest_list, write_other_files
from cli.reports.json_document import JsonDocument
from cli.reports.page import ReportPage
from cli.reports.values import Value
from cli.reports.workbook import ReportWorkbook
from cli.terminal import err, out
from cli.times import day_option
from handlers.log_replay import INT64_MIN
from handlers.reports import TABLES, Report, ReportRefused, ReportScope, open_report
from schema.limits import TEXT_CHARS_MAX

LIBRARIES: Final = {"html": ("jinja2", "pygal"), "xlsx": ("xlsxwriter",)}
"""What a format needs that is installed only with the extra `report`."""

REPORTED_ROWS: Final = 1_000
"""The progress bar moves after so many rows."""

report_commands = typer.Typer()


class ReportFormat(StrEnum):
    """What a report is written as."""

    HTML = "html"
    CSV = "csv"
    JSON = "json"
    XLSX = "xlsx"


class ReportWriter(Protocol):
    """Writes the tables of a report in one format, row by row."""

    def begin_table(self, name: str, columns: Sequence[str]) -> None:
        """Begin a table."""

    def add(self, row: Sequence[Value]) -> None:
        """Add a row to the table."""

    def end_table(self) -> None:
        """End the table."""

    def finish(self, about: Mapping[str, str], summary: Summary) -> None:
        """Write what is known at the end."""


def _month(text: str) -> date:
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text, re.ASCII):
        raise typer.BadParameter("must be a month such as 2026-01")
    return day_option(f"{text}-01")


def _zone(text: str) -> ZoneInfo:
    if text not in available_timezones():
        raise typer.BadParameter("must be a time zone such as UTC or Europe/Berlin")
    return ZoneInfo(text)


@report_commands.command()
def report(
    org_id: Annotated[
        str | None, typer.Option("--org", help="Only this organisation. Without it the report is about all.")
    ] = None,
    first: Annotated[
        date | None,
        typer.Option("--from", parser=day_option, metavar="DAY", help="Runs that began on this day or later."),
    ] = None,
    last: Annotated[
        date | None,
        typer.Option("--to", parser=day_option, metavar="DAY", help="Runs that began on this day or earlier."),
    ] = None,
    month: Annotated[
        date | None, typer.Option(parser=_month, metavar="MONTH", help="Runs that began in this month.")
    ] = None,
    time_zone: Annotated[
        ZoneInfo, typer.Option(parser=_zone, metavar="ZONE", help="In which days begin and end.")
    ] = "UTC",  # type: ignore[assignment]  # typer has the parser read it
    output_format: Annotated[
        ReportFormat, typer.Option("--format", help="csv is a folder of tables.")
    ] = ReportFormat.HTML,
    as_of: Annotated[
        int | None,
        typer.Option(
            min=INT64_MIN,
            metavar="LOG_POSITION",
            help="As it was at this position in the log. It is printed on each report.",
        ),
    ] = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Only one page: totals, what is open, digests.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="The file or folder to make. There must be none.")] = None,
) -> None:
    """Write an audit report: runs, claims, overrides, reversals, double exports, with totals that add up.

    It is made from the event log alone, and changes nothing. Workers go on meanwhile. With --as-of it is the same
    report again, but for the time at which it was made. Exit code 1 if it does not add up.
    """
    first, last = _days(first, last, month)
    _check(org_id, output_format, is_certificate=certificate)
    end = None if last is None else last + timedelta(days=1)
    scope = ReportScope(org_id, _start(first, time_zone), _start(end, time_zone), as_of)
    writing = _Writing(scope, Period(first, last, time_zone.key), output_format, output, is_certificate=certificate)
    with errors_explained():
        asyncio.run(writing.run())
    summary = writing.summary
    out.print_line(summary.totals.sentence())
    for line in differing(summary.lines):
        err.print_line(f"does not add up: {line.what}: {line.found}; by {line.by} {line.expected}")
    out.print_line(f"log position {writing.position}, SHA-256 {summary.digest}")
    out.print_line(f"written to {writing.path}")
    if not summary.agrees:
        raise typer.Exit(Exit.REFUSED)


def _days(first: date | None, last: date | None, month: date | None) -> tuple[date | None, date | None]:
    """The first and the last day of the period. Raises BadParameter."""
    if month is not None:
        if first is not None or last is not None:
            raise typer.BadParameter("give either --month or --from and --to")
        first, last = month, month.replace(day=monthrange(month.year, month.month)[1])
    if first is not None and last is not None and last < first:
        raise typer.BadParameter("--to is before --from")
    return first, last


def _check(org_id: str | None, output_format: ReportFormat, *, is_certificate: bool) -> None:
    """Raises BadParameter; ends the command if libraries are missing."""
    if org_id is not None and not 1 <= len(org_id) <= TEXT_CHARS_MAX:
        raise typer.BadParameter(f"must have 1 to {TEXT_CHARS_MAX} characters", param_hint="--org")
    if is_certificate and output_format is not ReportFormat.HTML:
        raise typer.BadParameter("a certificate is a page: leave out --format")
    libraries = LIBRARIES.get(output_format, ())
    if not all(map(find_spec, libraries)):
        fail(Exit.USAGE, f"{output_format} needs {' and '.join(libraries)}: install {DISTRIBUTION}[report]")


def _start(day: date | None, time_zone: ZoneInfo) -> datetime | None:
    return None if day is None else datetime.combine(day, time(), time_zone)


class _Writing:
    """A report on its way to the disk. It is written beside its place, and put there when it is complete."""

    summary: Summary
    path: Path
    position: int

    def __init__(
        self,
        scope: ReportScope,
        period: Period,
        output_format: ReportFormat,
        output: Path | None,
        *,
        is_certificate: bool,
    ) -> None:
        self._scope = scope
        self._period = period
        self._format = output_format
        self._output = output
        self._is_certificate = is_certificate

    async def run(self) -> None:
        """Write the report. Raises ReportRefused."""
        if self._output is not None:
            _check_place(self._output)
        with err.progress_bar("reporting") as show_progress:
            async with (
                long_session(idle_in_transaction_session_timeout="0") as connection,
                open_report(connection, self._scope, show_progress) as report,
            ):
                self.position = report.log.position
                self.path = self._output or Path(self._name())
                _check_place(self.path)
                part = self.path.with_name(f".{self.path.name}.part")
                try:
                    await self._write(report, part, show_progress)
                    part.rename(self.path)
                except OSError as error:
                    raise ReportRefused(f"{self.path}: cannot be written: {error.strerror}") from error
                finally:
                    _remove(part)

    def _name(self) -> str:
        kind = "certificate" if self._is_certificate else "report"
        suffix = "" if self._format is ReportFormat.CSV else f".{self._format}"
        return f"export-runs-{kind}-at-{self.position}{suffix}"

    async def _write(self, report: Report, part: Path, show_progress: Callable[[int, int], None]) -> None:
        _remove(part)
        folder = _folder(part) if self._format is ReportFormat.CSV else None
        writer = _writer(self._format, part, is_certificate=self._is_certificate)
        totals = ControlTotals()
        control = await report.control()
        rows_total = control.runs + control.claims_carried + control.claims_skipped
        digests: dict[str, str] = {}
        for table in TABLES:
            columns = await report.columns(table)
            as_csv = CsvTable(table.name, columns, folder)
            if writer is not None:
                writer.begin_table(table.name, columns)
            async for row in report.rows(table):
                totals.add(table.name, row)
                values = tuple(row)
                as_csv.add(values)
                if writer is not None:
                    writer.add(values)
                if (done := totals.rows.total()) % REPORTED_ROWS == 0:
                    show_progress(done, max(done, rows_total))
            digests[table.name] = as_csv.close()
            if writer is not None:
                writer.end_table()
        digest = hashlib.sha256(digest_list(digests)).hexdigest()
        self.summary = Summary(totals, totals.lines(control, report.log), digests, digest)
        parameters = about(self._scope, self._period, report.log, totals)
        if isinstance(writer, ReportPage) and not self._is_certificate:
            writer.charts = await charts_of(report, totals.double_exports, self._period.time_zone)
        if folder is not None:
            write_other_files(folder, parameters, self.summary)
        if writer is not None:
            writer.finish(parameters, self.summary)


def _writer(output_format: ReportFormat, path: Path, *, is_certificate: bool) -> ReportWriter | None:
    """What writes a format; None for CSV, which every report is digested as."""
    match output_format:
        case ReportFormat.HTML:
            return ReportPage(path, is_certificate=is_certificate)
        case ReportFormat.JSON:
            return JsonDocument(path)
        case ReportFormat.XLSX:
            return ReportWorkbook(path)
        case ReportFormat.CSV:
            return None
        case other:
            assert_never(other)


def _check_place(path: Path) -> None:
    if os.path.lexists(path):
        raise ReportRefused(f"{path}: is there already; give another --output")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _remove(part: Path) -> None:
    """Remove what was not completed, now or by a command that was killed."""
    if part.is_dir():
        rmtree(part)
    else:
        part.unlink(missing_ok=True)
