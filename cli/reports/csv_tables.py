"""The tables of a report as CSV files: written, or only digested. The digests stand in reports of every format."""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import IO, Final

from cli.reports.about import Summary
from cli.reports.values import Value, csv_text

BOM: Final = "\ufeff"
"""By it a spreadsheet knows that a file is UTF-8."""

BUFFERED_ROWS: Final = 1_000
DIGESTS_FILE: Final = "SHA256SUMS"


class CsvTable:
    """One table as a CSV file."""

    def __init__(self, name: str, columns: Sequence[str], folder: Path | None) -> None:
        self._file: IO[bytes] | None = (folder / f"{name}.csv").open("wb") if folder else None
        self._digest = hashlib.sha256()
        self._buffer = StringIO(BOM, newline="")
        self._buffer.seek(len(BOM))
        self._writer = csv.writer(self._buffer, lineterminator="\r\n")
        self._writer.writerow(columns)
        self._buffered_rows = 1

    def add(self, row: Iterable[Value]) -> None:
        """Add a row."""
        self._writer.writerow(map(csv_text, row))
        self._buffered_rows += 1
        if self._buffered_rows >= BUFFERED_ROWS:
            self._flush()

    def close(self) -> str:
        """Write what is left; returns the SHA-256 of the file in hexadecimal digits."""
        self._flush()
        if self._file is not None:
            self._file.close()
        return self._digest.hexdigest()

    def _flush(self) -> None:
        data = self._buffer.getvalue().encode()
        self._digest.update(data)
        if self._file is not None:
            self._file.writelines([data])
        self._buffer.seek(0)
        self._buffer.truncate()
        self._buffered_rows = 0


def digest_list(digests: Mapping[str, str]) -> bytes:
    """The digests of tables as `sha256sum --check` reads them."""
    return "".join(f"{digest}  {name}.csv\n" for name, digest in sorted(digests.items())).encode()


def write_other_files(folder: Path, about: Mapping[str, str], summary: Summary) -> None:
    """Write what belongs to the tables: parameters, control totals, digests."""
    _write(folder, "about", ("name", "value"), about.items())
    lines = ((line.what, line.found, line.expected, line.by, line.agrees) for line in summary.lines)
    _write(folder, "control", ("what", "found", "expected", "by", "agrees"), lines)
    (folder / DIGESTS_FILE).write_bytes(digest_list(summary.digests))


def _write(folder: Path, name: str, columns: Sequence[str], rows: Iterable[Iterable[Value]]) -> None:
    table = CsvTable(name, columns, folder)
    for row in rows:
        table.add(row)
    table.close()
