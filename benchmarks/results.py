"""What a row of the table says: two sides, their ratio, a goal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Literal

Unit = Literal["events/s", "answers/s", "ms", "MiB"]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: one number a round."""

    name: str
    unit: Unit
    samples: list[float]

    @property
    def median(self) -> float:
        """The number that stands for all."""
        return median(self.samples)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a number is to be."""

    limit: float
    at_least: bool
    unit: str = "x"

    def __str__(self) -> str:
        """As a person reads it."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"

    def reached(self, value: float) -> bool:
        """Whether it is."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Also:
    """One more number of a row, with a goal of its own."""

    what: str
    value: float
    goal: Goal


@dataclass(frozen=True, slots=True)
class Pair:
    """What was measured, side by side."""

    ours: Side
    other: Side
    also: list[Also] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Our median against the other's."""
        return self.ours.median / self.other.median


def milliseconds(seconds: Sequence[float]) -> float:
    """The median of some latencies."""
    return median(seconds) * 1_000


def p99_ms(seconds: Sequence[float]) -> float:
    """What one latency in a hundred exceeds."""
    return quantiles(seconds, n=100, method="inclusive")[98] * 1_000
