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


@dataclass(slots=True)
class Grant:
    """A claim was granted to a run: certainly from `heard_t` on, and until it expired or the run gave it back."""

    run: str
    asked_t: float
    heard_t: float
    expires_t: float
    token: int


class Leases:
    """Judges reservations against each other.

    A grant is wrong if another run certainly held the claim from before the request was sent until after its answer
    came; or if its token is not greater than that of a grant that was over by then.
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
            if conflict["runId"] == run or conflict["runId"] not in self._asked[claim]:
                yield f"{conflict} is with a run that never asked for it"
        if not granted:
            return
        expires_t = datetime.fromisoformat(result["expiresAt"]).timestamp() - self.wall_minus_t
        new = Grant(run, ask["t"], t, expires_t, result["fencingToken"])
        for claim_id in granted:
            grants = self._grants[org, claim_id]
            for old in grants:
                yield from self._compare(claim_id, old, new)
            grants.append(new)

    def _compare(self, claim: str, old: Grant, new: Grant) -> Iterable[str]:
        if old.run == new.run or old.heard_t > new.asked_t:
            return
        if new.token <= old.token:
            yield f"{claim} was granted to {new.run} with token {new.token}, after {old.token} to {old.run}"
        given_back = min((t for t in self._given_back.get(old.run, []) if t >= old.asked_t), default=float("inf"))
        if new.heard_t < min(old.expires_t, given_back) - CLOCK_GRACE_S:
            yield f"{claim} was granted to {new.run} while {old.run} held it"
