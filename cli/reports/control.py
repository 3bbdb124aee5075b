"""Whether a report adds up: its tables are counted while they are written, and compared with what the runs say."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

from asyncpg import Record

from handlers.reports import Control, ReportedLog
from schema.fields import amount_text, counted

EXACT: Final = Context(prec=200)
"""Sums of amounts are exact: an amount has 22 digits, and the largest report has not 10^100 of them."""

UNKNOWN_CURRENCY: Final = "no currency"


@dataclass(frozen=True, slots=True)
class ControlLine:
    """One thing that was found in two ways."""

    what: str
    found: str
    expected: str
    by: str
    """Where the expected number comes from."""

    @property
    def agrees(self) -> bool:
        """Whether both are the same."""
        return self.found == self.expected


class ControlTotals:
    """Counts and sums of the rows of a report."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.claims_without_amount = 0
        self.claims: dict[str, tuple[int, Decimal]] = {}
        """Of claims that went out, by currency: how many have an amount, and its sum."""

        self.reversed: dict[str, tuple[int, Decimal]] = {}
        """Those of them that were reversed."""

        self.run_totals: dict[str, tuple[int, Decimal]] = {}
        self.told: dict[str, tuple[int, Decimal]] = {}
        """What exporters told in the control totals of their runs."""

        self.remarks: Counter[str] = Counter()
        self.double_exports: Counter[str] = Counter()
        """By state."""

    def add(self, table: str, row: Record) -> None:
        """Count a row of a table."""
        self.rows[table] += 1
        match table:
            case "claims":
                self._add_claim(row)
            case "totals":
                _add(self.run_totals, row["currency"], row["exported_claims"], row["exported_amount"])
                if row["told_claims"] is not None:
                    _add(self.told, row["currency"], row["told_claims"], row["told_amount"])
            case "remarks":
                self.remarks[row["remark"]] += 1
            case "double_exports":
                self.double_exports[row["state"]] += 1
            case _:
                pass

    def _add_claim(self, row: Record) -> None:
        self.outcomes[row["outcome"]] += 1
        if row["outcome"] not in ("exported", "reversed"):
            return
        if row["amount"] is None:
            self.claims_without_amount += 1
            return
        _add(self.claims, row["currency"], 1, row["amount"])
        if row["outcome"] == "reversed":
            _add(self.reversed, row["currency"], 1, row["amount"])

    def lines(self, control: Control, log: ReportedLog) -> list[ControlLine]:
        """Everything that was found in two ways."""
        carried = sum(self.outcomes.values()) - self.outcomes["skipped"]
        runs = "the counts of the runs"
        lines = [
            ControlLine("runs", str(self.rows["runs"]), str(control.runs), "a count by the database"),
            ControlLine("claims that runs carried", str(carried), str(control.claims_carried), runs),
            ControlLine("of these, reversed", str(self.outcomes["reversed"]), str(control.claims_reversed), runs),
            ControlLine("claims that runs skipped", str(self.outcomes["skipped"]), str(control.claims_skipped), runs),
            ControlLine(
                "runs whose counts are not those of their claims", str(control.runs_that_differ), "0", "a rule"
            ),
            ControlLine("log entries that cannot be replayed", str(len(log.unusable)), "0", "a rule"),
        ]
        for currency in sorted(self.claims.keys() | self.run_totals.keys()):
            found, expected = self.claims.get(currency, _NOTHING), self.run_totals.get(currency, _NOTHING)
            by = "the totals of the runs"
            lines += [
                ControlLine(f"claims in {currency} that went out", str(found[0]), str(expected[0]), by),
                ControlLine(f"their amount in {currency}", amount_text(found[1]), amount_text(expected[1]), by),
            ]
        return lines

    def sentence(self) -> str:
        """The line that ties claims to runs to totals."""
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        amounts = [f"{currency} {amount_text(amount)}" for currency, (_, amount) in sorted(self.claims.items())]
        claims = sum(self.outcomes.values())
        parts = [
            f"{counted(claims, 'claim')}{f' ({outcomes})' if outcomes else ''} in {counted(self.rows['runs'], 'run')}"
        ]
        if amounts:
            parts.append(f"amounts that went out: {', '.join(amounts)}")
        if self.reversed:
            taken_back = (
                f"{currency} {amount_text(amount)}" for currency, (_, amount) in sorted(self.reversed.items())
            )
            parts.append(f"of these taken back: {', '.join(taken_back)}")
        if self.claims_without_amount:
            parts.append(f"{counted(self.claims_without_amount, 'claim')} went out without a known amount")
        return "; ".join(parts)


_NOTHING: Final = (0, Decimal(0))


def _add(sums: dict[str, tuple[int, Decimal]], currency: str | None, count: int, amount: Decimal) -> None:
    known_count, known_amount = sums.get(currency or UNKNOWN_CURRENCY, _NOTHING)
    sums[currency or UNKNOWN_CURRENCY] = known_count + count, EXACT.add(known_amount, amount)


def differing(lines: Sequence[ControlLine]) -> list[ControlLine]:
    """The lines that do not agree."""
    return [line for line in lines if not line.agrees]
