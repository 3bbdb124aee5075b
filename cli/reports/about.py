"""What stands at the head of a report: of what it was made, when and by which version, and what it came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import metadata
from typing import Final

import sql
from cli.console import DISTRIBUTION
from cli.reports.control import ControlLine, ControlTotals
from cli.reports.values import value_text
from handlers.reports import TABLES, ReportedLog, ReportScope

MADE_AT: Final = "made at"
"""The only thing in which two reports of the same position differ."""


@dataclass(frozen=True, slots=True)
class Period:
    """The days that a report is about, both included, in a time zone. None: from the beginning, up to the end."""

    first: date | None
    last: date | None
    time_zone: str

    def __str__(self) -> str:
        if self.first is None and self.last is None:
            return "all"
        return f"{self.first or 'the beginning'} to {self.last or 'the end'}, {self.time_zone}"


@dataclass(slots=True)
class Summary:
    """What is known when all tables were read."""

    totals: ControlTotals
    lines: Sequence[ControlLine]
    digests: Mapping[str, str]
    """By table, the SHA-256 of its CSV file."""

    digest: str
    """The SHA-256 of the list of these, as `sha256sum` writes it."""

    @property
    def agrees(self) -> bool:
        """Whether the report adds up."""
        return all(line.agrees for line in self.lines)


def about(scope: ReportScope, period: Period, log: ReportedLog, totals: ControlTotals) -> dict[str, str]:
    """The parameters of a report, in the order in which they are printed."""
    entries = ", ".join(f"{count:,} {kind}" for kind, count in sorted(log.entry_counts.items()))
    return {
        MADE_AT: value_text(datetime.now(UTC).replace(microsecond=0)),
        "made by": f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}, schema {len(sql.migrations()):04}",
        "organisation": "all" if scope.org_id is None else scope.org_id,
        "runs that began": str(period),
        "position in the log": str(log.position),
        "the log ends at": value_text(log.last_received_at),
        "records": ", ".join(f"{totals.rows[table.name]:,} {table.name}" for table in TABLES),
        "log entries read": f"{log.entry_counts.total():,}{f': {entries}' if entries else ''}",
    }
