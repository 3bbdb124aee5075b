"""A report as one JSON object."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from cli.reports.about import Summary
from cli.reports.values import Value, json_value


class JsonDocument:
    """Writes a table after the other, a row a line, and what is known at the end last."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("w", encoding="ascii")
        self._columns: Sequence[str] = ()
        self._separator = '{"tables": {'

    def begin_table(self, name: str, columns: Sequence[str]) -> None:
        """Begin a table."""
        self._file.writelines([self._separator, "\n", json.dumps(name), ": ["])
        self._columns, self._separator = columns, "\n"

    def add(self, row: Sequence[Value]) -> None:
        """Add a row to the table."""
        values = dict(zip(self._columns, map(json_value, row), strict=True))
        self._file.writelines([self._separator, json.dumps(values)])
        self._separator = ",\n"

    def end_table(self) -> None:
        """End the table."""
        self._file.writelines(["]"])
        self._separator = ","

    def finish(self, about: Mapping[str, str], summary: Summary) -> None:
        """Write the rest, and close the file."""
        rest = {
            "about": dict(about),
            "sentence": summary.totals.sentence(),
            "control": [
                {
                    "what": line.what,
                    "found": line.found,
                    "expected": line.expected,
                    "by": line.by,
                    "agrees": line.agrees,
                }
                for line in summary.lines
            ],
            "agrees": summary.agrees,
            "sha256": {"tables": dict(summary.digests), "all": summary.digest},
        }
        self._file.writelines(["},\n", json.dumps(rest)[1:], "\n"])
        self._file.close()
