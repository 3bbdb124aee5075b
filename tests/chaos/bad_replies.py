"""Judges the replies to bad requests."""

from collections.abc import Callable
from typing import Final

from tests.chaos.ledger import Record
from tests.chaos.verdict import Verdict

REPLY_TIMEOUT_S: Final = 5.0
"""A reply that is not there after so long does not come any more."""


class BadReplies:
    """The bad requests of the ledger, and the error codes of their replies."""

    def __init__(self) -> None:
        self._sent: dict[str, tuple[float, str | None]] = {}
        self._codes: dict[str, str | None] = {}

    def note_request(self, record: Record) -> None:
        """A request was sent, with the code that must come back, or None if it does not matter."""
        self._sent[record["id"]] = record["t"], record["code"]

    def note_unsent(self, record: Record) -> None:
        """A request was not sent after all."""
        del self._sent[record["id"]]

    def note_reply(self, record: Record) -> None:
        """A reply came, with this error code, or OK."""
        self._codes[record["id"]] = record["code"]

    def judge(self, was_disturbed: Callable[[float, float], bool], verdict: Verdict) -> None:
        """A reply must have the right code. While nothing else is wrong, it must come."""
        for ident, (t, code) in self._sent.items():
            if code is None or was_disturbed(t, t + REPLY_TIMEOUT_S):
                continue
            if ident not in self._codes:
                verdict.add("bad request unanswered", f"{ident} at {t:.1f}, instead of {code}")
            elif self._codes[ident] != code:
                verdict.add("wrong reply", f"{self._codes[ident]} instead of {code} to {ident} at {t:.1f}")
        verdict.figures["bad requests"] = len(self._sent)
        verdict.figures["answers to bad requests"] = len(self._codes)
