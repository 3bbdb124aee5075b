"""Judges reversals: which exports somebody asked to take back, and which were certainly taken back."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

from tests.chaos.ledger import Record

Json = dict[str, Any]
Export = tuple[str, str, str]
"""An organisation, a claim of it, and a run that exported it."""

FACTS: Final = ("reason", "reversedBy", "approvedBy", "externalReversalId")


class Reversals:
    """What was asked and what was answered.

    An export may have been taken back as soon as somebody asks for it. It certainly was when an answer says so, and
    from then on no event brings it back.
    """

    def __init__(self) -> None:
        self.accepted_count = 0
        self.refused_count = 0
        self.certain: dict[Export, float] = {}
        """The exports that were certainly taken back, and when the first answer said so."""

        self.due_grants: set[tuple[str, str, str, str]] = set()
        """An organisation, a claim, a run that asked for it only after a reversal and was granted it, and the run whose
        export was taken back: the log must say so."""

        self._requests: dict[str, list[Json]] = defaultdict(list)
        self._accepted: list[Json] = []

    def note_request(self, ask: Record) -> None:
        """Note a request that is about to be sent: from now on the service may carry it out."""
        self._requests[ask["request"]["runId"]].append(ask["request"])

    def may_be(self, export: Export) -> bool:
        """Whether an export may have been taken back by now."""
        org, claim, run = export
        return any(
            request["orgId"] == org and claim in request.get("claimIds", (claim,))
            for request in self._requests.get(run, ())
        )

    def is_certain(self, export: Export, before_t: float) -> bool:
        """Whether an export was certainly taken back before this time."""
        return self.certain.get(export, before_t) < before_t

    def runs_of(self, org: str, claim: str, before_t: float) -> set[str]:
        """The runs whose export of a claim was certainly taken back before this time."""
        runs = {run for run in self._requests if (org, claim, run) in self.certain}
        return {run for run in runs if self.is_certain((org, claim, run), before_t)}

    def was_requested(self, org: str, run: str, entry: Json) -> bool:
        """Whether somebody asked for what an entry of the log says."""
        facts = [entry.get(name) for name in FACTS]
        return any(
            request["orgId"] == org
            and [request.get(name) for name in FACTS] == facts
            and entry["ofWholeRun"] == ("claimIds" not in request)
            and set(entry["claimIds"]) <= set(request.get("claimIds") or entry["claimIds"])
            for request in self._requests.get(run, ())
        )

    def judge(
        self,
        ask: Record,
        reply: Json,
        t: float,
        *,
        can_be_exported: Callable[[str], bool],
        is_exported: Callable[[str], bool],
        is_stored: bool,
    ) -> Iterable[str]:
        """The mistakes in the reply to a reversal. The first two say whether the run can have exported a claim by now,
        and whether it certainly had when it was asked; `is_stored` is whether the run was known then.
        """
        request = ask["request"]
        org, run, claim_ids = request["orgId"], request["runId"], request.get("claimIds")
        if reply["ok"]:
            self.accepted_count += 1
            reversed_claims = reply["result"]["reversed"]
            if claim_ids is not None and reversed_claims != claim_ids:
                yield f"reversed {reversed_claims}"
            if not reversed_claims or len(set(reversed_claims)) < len(reversed_claims):
                yield f"reversed nothing, or a claim twice: {reversed_claims}"
            if impossible := [claim for claim in reversed_claims if not can_be_exported(claim)]:
                yield f"{impossible} cannot have been exported by {run}"
            for claim in reversed_claims:
                self.certain.setdefault((org, claim, run), t)
            self._accepted.append(request)
            return
        self.refused_count += 1
        match reply["error"]["code"]:
            case "RUN_NOT_FOUND":
                if is_stored:
                    yield "RUN_NOT_FOUND for a run that was stored"
            case "CONFLICT":
                is_first = all(other == request for other in self._requests[run])
                if request in self._accepted:
                    yield "CONFLICT for a request that was accepted before"
                elif claim_ids is not None and is_first and all(map(is_exported, claim_ids)):
                    yield "CONFLICT, though the run had exported the claims"
            case code:
                yield f"error {code}"
