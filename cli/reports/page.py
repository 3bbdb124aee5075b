"""A report as one HTML file that needs nothing else, and a certificate of one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final
from uuid import UUID

from cli.reports.about import Summary
from cli.reports.charts import Chart, svg
from cli.reports.values import Value, value_text
from cli.times import time_text
from worker.logs import escape_unprintable

TABLE_ROWS_MAX: Final = 5_000
"""Of each table so many rows stand in the page, for a browser has to show them. All are counted, and digested."""

TITLES: Final = {
    "runs": "Runs",
    "totals": "Totals of the runs by currency",
    "claims": "Claims",
    "overrides": "Overrides: claims that a run was granted although an earlier run had exported them",
    "reversals": "Reversals: exports that were taken back",
    "double_exports": "Double exports",
    "double_export_runs": "The exports of these claims",
    "remarks": "Runs to look at: stale, conflicting, deleted, purged",
}


@dataclass(slots=True)
class _Table:
    name: str
    columns: Sequence[str]
    rows: list[Sequence[Value]] = field(default_factory=list)
    row_count: int = 0

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def shown(self) -> list[int]:
        """The places of the columns in which a row has something."""
        return [place for place in range(len(self.columns)) if any(row[place] is not None for row in self.rows)]

    @property
    def empty_columns(self) -> str:
        shown = set(self.shown)
        return ", ".join(_heading(name) for place, name in enumerate(self.columns) if place not in shown)


class ReportPage:
    """Keeps the first rows of each table, and writes the page when all is known."""

    def __init__(self, path: Path, *, is_certificate: bool) -> None:
        self._path = path
        self._template = "certificate.html.jinja" if is_certificate else "report.html.jinja"
        self._rows_max = 0 if is_certificate else TABLE_ROWS_MAX
        self._tables: list[_Table] = []
        self.charts: Sequence[Chart] = ()

    def begin_table(self, name: str, columns: Sequence[str]) -> None:
        """Begin a table."""
        self._tables.append(_Table(name, columns))

    def add(self, row: Sequence[Value]) -> None:
        """Add a row to the table."""
        table = self._tables[-1]
        table.row_count += 1
        if len(table.rows) < self._rows_max:
            table.rows.append(row)

    def end_table(self) -> None:
        """End the table."""

    def finish(self, about: Mapping[str, str], summary: Summary) -> None:
        """Write the page."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"cell": _cell, "kind": _kind, "heading": _heading}
        parts = environment.get_template(self._template).generate(
            about=about,
            summary=summary,
            tables=self._tables,
            pictures=[(chart.title, svg(chart, number)) for number, chart in enumerate(self.charts, start=1)],
        )
        file: IO[str]
        with self._path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(parts)


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return time_text(value)
    return escape_unprintable(value_text(value))


def _kind(value: Any) -> str:
    """The class of a cell in the style sheet."""
    match value:
        case bool():
            return "text"
        case int() | Decimal():
            return "number"
        case UUID() | date():
            return "whole"
        case _:
            return "text"


def _heading(column: str) -> str:
    return column.replace("_", " ")
