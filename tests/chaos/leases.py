"""Judges leases: which run requested a claim, which run was granted it, and until when."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tests.chaos.ledger import Record

Json = dict[str, Any]
Claim = tuple[str, str]

CLOCK_GRACE_S: Final = 0.1
"""The ledger and the database use the same clock, but do not read it at the same moment."""

REQUEST_S_MAX: Final = 10.0
"""A worker may still handle a request this long after it was sent."""


@dataclass(slots=True)
class Grant:
    """A claim was granted to a run, at some moment between `request_t` and `reply_t`."""

    run: str
    request_t: float
    reply_t: float
    expires_t: float
    token: int


class Leases:
    """Compares reservations with each other.

    If two runs were granted the same claim, one grant must have come first: it has the smaller token, and it can have
    ended before the other run got its reply. A grant ends when its run releases the claim or ends, or when it has
    expired and another run requests it with `takeExpired`.
    """

    def __init__(self) -> None:
        self.wall_minus_t = 0.0
        self.grant_count = 0
        self.conflict_count = 0
        self.taker_runs: set[str] = set()
        """Runs that sent `takeExpired`. Only these may have a claims-taken entry in the log."""

        self._requesters: dict[Claim, dict[str, float]] = defaultdict(dict)
        self._grants: dict[Claim, list[Grant]] = defaultdict(list)
        self._end_times: dict[str, list[float]] = defaultdict(list)
        self._takers: dict[Claim, list[tuple[str, float]]] = defaultdict(list)

    def note_request(self, ask: Record) -> None:
        """Note a request that is about to be sent: from now on the service may carry it out."""
        request = ask["request"]
        if ask["op"] == "release-claims":
            self._end_times[request["runId"]].append(ask["t"])
            return
        if request["takeExpired"]:
            self.taker_runs.add(request["runId"])
        for claim in request["claimIds"]:
            self._requesters[request["orgId"], claim].setdefault(request["runId"], ask["t"])
            if request["takeExpired"]:
                self._takers[request["orgId"], claim].append((request["runId"], ask["t"]))

    def note_finished(self, run: str, t: float) -> None:
        """Note that a run-finished is about to be published: from now on its run may have ended."""
        self._end_times[run].append(t)

    def was_requested(self, org: str, claim: str) -> bool:
        """Whether any run has requested a claim by now."""
        return bool(self._requesters.get((org, claim)))

    def first_request_t(self, org: str, claim: str, run: str) -> float | None:
        """When a run first requested a claim, if it did."""
        return self._requesters.get((org, claim), {}).get(run)

    def judge_release(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        """A release must succeed."""
        if not reply["ok"]:
            yield f"error {reply['error']['code']}"

    def judge_reservation(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        """The mistakes in the reply to a reservation."""
        request = ask["request"]
        org, run = request["orgId"], request["runId"]
        if not reply["ok"]:
            # A run-finished may have ended the run, or a release may have come late.
            if reply["error"]["code"] != "CONFLICT" or not self._end_times.get(run):
                yield f"error {reply['error']['code']}"
            return
        result = reply["result"]
        granted, conflicts = result["granted"], result["conflicts"]
        self.grant_count += len(granted)
        self.conflict_count += len(conflicts)
        claims = sorted([*granted, *(each["claimId"] for each in conflicts)])
        whole = request["mode"] == "all-or-nothing" and bool(conflicts)
        if (whole and granted) or (not whole and claims != sorted(request["claimIds"])):
            yield "not each claim once, or only some claims of an all-or-nothing request"
        for conflict in conflicts:
            claim = org, conflict["claimId"]
            if conflict["reason"] == "exported":
                continue
            if conflict["runId"] == run or conflict["runId"] not in self._requesters[claim]:
                yield f"{conflict} names a run that never requested the claim"
        if not granted:
            return
        expires_t = datetime.fromisoformat(result["expiresAt"]).timestamp() - self.wall_minus_t
        if not ask["t"] - CLOCK_GRACE_S <= expires_t - request["ttlSeconds"] <= t + CLOCK_GRACE_S:
            yield f"expires {expires_t - t:.2f} s after the reply"
        new = Grant(run, ask["t"], t, expires_t, result["fencingToken"])
        for claim_id in granted:
            grants = self._grants[org, claim_id]
            for old in grants:
                if old.run != run and not any(
                    self._can_precede((org, claim_id), *pair) for pair in ((old, new), (new, old))
                ):
                    yield f"{claim_id} was granted to {run} while {old} was valid"
            grants.append(new)

    def _can_precede(self, claim: Claim, first: Grant, second: Grant) -> bool:
        """Whether the first grant can have ended before the second was made."""
        ends = [t for t in self._end_times.get(first.run, []) if t >= first.request_t]
        if any(
            run != first.run and first.request_t - REQUEST_S_MAX < t < second.reply_t
            for run, t in self._takers.get(claim, [])
        ):
            ends.append(first.expires_t)
        return first.token < second.token and second.reply_t >= min(ends, default=float("inf")) - CLOCK_GRACE_S
