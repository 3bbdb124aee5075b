"""What the checker knows of leases: who asked for a claim, who was granted it, and until when."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tests.chaos.ledger import Record

Json = dict[str, Any]
Claim = tuple[str, str]

CLOCK_GRACE_S: Final = 0.1
"""The ledger's clock and the database's are one, but are not read at one moment."""

REQUEST_LASTS_S: Final = 10.0
"""So long after it was sent a request may still be worked on."""


@dataclass(slots=True)
class Grant:
    """A claim was granted to a run, at some moment from `asked_t` to `heard_t`."""

    run: str
    asked_t: float
    heard_t: float
    expires_t: float
    token: int


class Leases:
    """Judges reservations against each other.

    Of two runs that were granted one claim, one came first: it has the smaller token, and it can have been over before
    the other was told. A grant is over when its run gives the claim back or ends, or else when it has expired and
    somebody asks to take what has expired.
    """

    def __init__(self) -> None:
        self.wall_minus_t = 0.0
        self.granted = 0
        self.refused = 0
        self.taking: set[str] = set()
        """Runs that would take expired leases: the log says when they did."""

        self._asked: dict[Claim, set[str]] = defaultdict(set)
        self._grants: dict[Claim, list[Grant]] = defaultdict(list)
        self._given_back: dict[str, list[float]] = defaultdict(list)
        self._takers: dict[Claim, list[tuple[str, float]]] = defaultdict(list)

    def note_asked(self, ask: Record) -> None:
        """Somebody asks: from now on the service may do it."""
        request = ask["request"]
        if ask["op"] == "release-claims":
            self._given_back[request["runId"]].append(ask["t"])
            return
        if request["takeExpired"]:
            self.taking.add(request["runId"])
        for claim in request["claimIds"]:
            self._asked[request["orgId"], claim].add(request["runId"])
            if request["takeExpired"]:
                self._takers[request["orgId"], claim].append((request["runId"], ask["t"]))

    def note_finished(self, run: str, t: float) -> None:
        """A run-finished may arrive from now on."""
        self._given_back[run].append(t)

    def asked_for(self, org: str, claim: str) -> bool:
        """Whether anybody asked to reserve a claim by now."""
        return bool(self._asked.get((org, claim)))

    def judge_release(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        """A release is always right."""
        if not reply["ok"]:
            yield f"error {reply['error']['code']}"

    def judge_reservation(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        """What is wrong with an answer, if anything."""
        request = ask["request"]
        org, run = request["orgId"], request["runId"]
        if not reply["ok"]:
            # A release that came late, or a run-finished, may have ended the run.
            if reply["error"]["code"] != "CONFLICT" or not self._given_back.get(run):
                yield f"error {reply['error']['code']}"
            return
        result = reply["result"]
        granted, conflicts = result["granted"], result["conflicts"]
        self.granted += len(granted)
        self.refused += len(conflicts)
        answered = sorted([*granted, *(each["claimId"] for each in conflicts)])
        whole = request["mode"] == "all-or-nothing" and bool(conflicts)
        if (whole and granted) or (not whole and answered != sorted(request["claimIds"])):
            yield "not each claim once, or a part of what was to be granted whole"
        for conflict in conflicts:
            claim = org, conflict["claimId"]
            if conflict["reason"] == "exported":
                continue
            if conflict["runId"] == run or conflict["runId"] not in self._asked[claim]:
                yield f"{conflict} is with a run that never asked for it"
        if not granted:
            return
        expires_t = datetime.fromisoformat(result["expiresAt"]).timestamp() - self.wall_minus_t
        if not ask["t"] - CLOCK_GRACE_S <= expires_t - request["ttlSeconds"] <= t + CLOCK_GRACE_S:
            yield f"expires {expires_t - t:.2f} s after the answer"
        new = Grant(run, ask["t"], t, expires_t, result["fencingToken"])
        for claim_id in granted:
            grants = self._grants[org, claim_id]
            for old in grants:
                if old.run != run and not any(self._over((org, claim_id), *pair) for pair in ((old, new), (new, old))):
                    yield f"{claim_id} was granted to {run} beside {old}"
            grants.append(new)

    def _over(self, claim: Claim, first: Grant, second: Grant) -> bool:
        """Whether the first grant can have been over before the second was told."""
        ends = [t for t in self._given_back.get(first.run, []) if t >= first.asked_t]
        if any(
            run != first.run and first.asked_t - REQUEST_LASTS_S < t < second.heard_t
            for run, t in self._takers.get(claim, [])
        ):
            ends.append(first.expires_t)
        return first.token < second.token and second.heard_t >= min(ends, default=float("inf")) - CLOCK_GRACE_S
