"""Judges the share of each worker: while all is well, none of them is idle."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from tests.chaos.ledger import Record
from tests.chaos.verdict import Verdict

SHARE_MIN: Final = 0.05
"""Of the bytes that all workers send to the database in calm, each worker must send this share at least."""

JUDGED_FROM_S: Final = 3.0
"""A shorter calm says nothing about who does the work."""

JUDGED_FROM_BYTES: Final = 100_000


class Shares:
    """What each worker has sent to the database: a worker that stores or reads anything sends something."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, list[int]]] = []

    def note(self, record: Record) -> None:
        """Take a sample: how much each worker has sent since the start, in bytes."""
        self._samples.append((record["t"], record["sent"]))

    def judge(self, is_calm: Callable[[float, float], bool], verdict: Verdict) -> None:
        """Judge every stretch of calm that is long enough."""
        stretch: list[tuple[float, list[int]]] = []
        smallest = 1.0
        for before, after in pairwise(self._samples):
            if is_calm(before[0], after[0]):
                stretch = stretch or [before]
                stretch.append(after)
            else:
                smallest = min(smallest, self._judge(stretch, verdict))
                stretch = []
        smallest = min(smallest, self._judge(stretch, verdict))
        verdict.figures["smallest share of a worker in calm"] = f"{smallest:.0%}"

    def _judge(self, stretch: Sequence[tuple[float, list[int]]], verdict: Verdict) -> float:
        """Judge one stretch of calm. Returns the smallest share of a worker."""
        if len(stretch) < 2 or stretch[-1][0] - stretch[0][0] < JUDGED_FROM_S:
            return 1.0
        sent = [last - first for first, last in zip(stretch[0][1], stretch[-1][1], strict=True)]
        if sum(sent) < JUDGED_FROM_BYTES:
            return 1.0
        share = min(sent) / sum(sent)
        if share < SHARE_MIN:
            text = f"worker {sent.index(min(sent))} did {share:.1%} of the work from {stretch[0][0]:.1f}"
            verdict.add("idle worker in calm", f"{text} to {stretch[-1][0]:.1f}")
        return share
