"""Why rows were refused: how many for each reason, and the first of them."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from schema.fields import counted

REASONS_MAX: Final = 1_000
"""Reasons that are told apart. A file can have another one in each row."""

ROWS_NAMED_MAX: Final = 5
"""For each reason so many rows are named."""

OTHER_REASONS: Final = "other reasons"


class Reasons:
    """Counts reasons, in bounded memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first_rows: dict[str, list[int]] = {}
        """By reason, the numbers in the file of some rows."""

    def add(self, row: int, reasons: Iterable[str]) -> None:
        """Count what is wrong with one row."""
        for reason in reasons:
            known = reason in self.counts or len(self.counts) < REASONS_MAX
            name = reason if known else OTHER_REASONS
            self.counts[name] += 1
            rows = self.first_rows.setdefault(name, [])
            if len(rows) < ROWS_NAMED_MAX or row < rows[-1]:
                self.first_rows[name] = sorted([*rows, row])[:ROWS_NAMED_MAX]

    def lines(self, lines_max: int) -> list[str]:
        """For each of the most frequent reasons a line that names its first rows."""
        return [self._line(reason, count) for reason, count in self.counts.most_common(lines_max)]

    def _line(self, reason: str, count: int) -> str:
        rows = self.first_rows[reason]
        numbers = ", ".join(map(str, rows)) + (", ..." if count > len(rows) else "")
        return f"{counted(count, 'row')} ({numbers}): {reason}"
