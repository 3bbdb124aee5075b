"""The result of a row of the table: two sides, their ratio, a goal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Literal

Unit = Literal["events/s", "answers/s", "ms", "MiB"]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison, with one sample per round."""

    name: str
    unit: Unit
    samples: list[float]

    @property
    def median(self) -> float:
        """The median of all samples."""
        return median(self.samples)


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that a number should keep: at least or at most `limit`."""

    limit: float
    at_least: bool
    unit: str = "x"

    def __str__(self) -> str:
        """The goal as text, such as "≥ 5x"."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"

    def reached(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Extra:
    """Another number of a row, perhaps with a goal of its own."""

    what: str
    value: float
    unit: Unit | Literal["x"]
    goal: Goal | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """The two sides of a row, and other numbers that were measured with them."""

    ours: Side
    other: Side
    extras: list[Extra] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Our median divided by the other's."""
        return self.ours.median / self.other.median


def milliseconds(seconds: Sequence[float]) -> float:
    """The median of some latencies."""
    return median(seconds) * 1_000


def p99_ms(seconds: Sequence[float]) -> float:
    """The 99th percentile: one latency in a hundred is longer."""
    return quantiles(seconds, n=100, method="inclusive")[98] * 1_000
