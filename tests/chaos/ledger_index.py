"""Reads the ledger once, from beginning to end, and judges every reply on the way.

**Replies.** A reply must have been true at some moment between its request and its arrival. Nothing that is stored is
ever removed. So there is such a moment if and only if the reply says at least what was certainly stored when the
request was written to the ledger (before it was sent), and at most what can have been stored when the reply was
written to the ledger (after it had arrived).
- An event is certainly stored if an earlier reply in the ledger shows it. It can be stored if the ledger has its first
  publish earlier.
- check-claims must name each claim once, in the order of the request, in exactly one of its lists. The runs that it
  names for a claim must include all runs that certainly exported it, and only runs that can have exported it.
- get-export-run-by-id must return the run that some of the events published so far lead to. Its status must not be
  lower, and its claims not fewer, than in an earlier reply. RUN_NOT_FOUND is right only if no earlier reply had this
  run.
- An export whose event was confirmed SETTLED_S before the request, with no fault since, must be in the reply.
- reverse-export (reversals.py) may take an export back from its request on, and certainly has when it is answered.
  From then on no answer says that this run has exported the claim.
- reserve-claims must not grant a claim that was certainly exported, or that another run held all the time (leases.py).
- UNAVAILABLE is right during a fault. Every other error is wrong.

**Calm** is the time in which no fault is on, and all workers consume again after the last one. In calm no request gets
UNAVAILABLE, a request that got no reply must get a result when it is repeated, and no reply may come late or twice.
Around a fault this may happen: a worker's reply can arrive while its ack is lost. A fault of the database alone
explains UNAVAILABLE, but no missing reply, as the broker and the workers still run. While one worker alone is without
its database, UNAVAILABLE is right for HAND_OVER_MAX_S; then the other workers must do all the work.

**Contained faults** are about some organisations (the ledger has them as `affected`). For all others it is calm.

**The standby.** While it is away from its primary, no reservation and no release may be answered as done. The ledger
has the events that were acknowledged all the same.

**Workers.** A worker that gets SIGTERM must end with code 0. Beside another fault it may give up and end with code 1.
"""

import base64
import json
import mmap
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Final

from tests.chaos.bad_replies import BadReplies
from tests.chaos.leases import Leases
from tests.chaos.ledger import Record, read
from tests.chaos.ledger_faults import CONTAINED_KINDS, Fault
from tests.chaos.reversals import Reversals
from tests.chaos.rules import STATUSES, is_run_of
from tests.chaos.shares import Shares
from tests.chaos.verdict import Json, Verdict

FAULT_GRACE_S: Final = 1.0

SETTLED_S: Final = 5.0
"""In calm, a confirmed event is visible after so long."""

CALM_MIN_S: Final = 4.0
"""With less calm than this, the rules for calm would not have been tested."""

WRITES: Final = ("reserve-claims", "release-claims", "reverse-export")

STARTING_S: Final = 10.0
"""A worker that is younger may not handle SIGTERM yet."""


@dataclass(slots=True)
class PublishedMessage:
    """A message that exporters published."""

    offset: int
    """Where the ledger has its body."""

    event_type: str
    first_t: float
    """When it was published for the first time."""

    code: str | None
    """The error code of its dead letter, if it is a poison message."""

    confirm_t: float | None = None
    """When the broker confirmed it for the first time."""

    @property
    def confirmed(self) -> bool:
        """Whether the broker has confirmed it."""
        return self.confirm_t is not None


@dataclass
class RunEvidence:
    """What can be stored of one run by now, and what is certainly stored."""

    events: list[str] = field(default_factory=list)
    """The keys of its published events."""

    org: str = ""
    proofs: list[tuple[float, int, frozenset[str]]] = field(default_factory=list)
    """For replies that had the run: their time, the rank of its status, its claims."""


class LedgerIndex:
    """The messages, runs, faults and leases of the ledger. Replies are judged while it is read."""

    def __init__(self, verdict: Verdict, bodies: "Bodies") -> None:
        self.verdict = verdict
        self._bodies = bodies
        self.messages: dict[str, PublishedMessage] = {}
        self.runs: dict[str, RunEvidence] = defaultdict(RunEvidence)
        self.attempts: dict[str, str] = {}  # message id to key: of poison messages, and of events not yet confirmed
        self.confirmed_poison: set[str] = set()
        self.faults: list[Fault] = []
        self.wall_minus_t = 0.0
        self.leases = Leases()
        self.reversals = Reversals()
        self.shares = Shares()
        self.bad_replies = BadReplies()
        self.request_count = 0
        self.reply_count = 0
        self._exporters: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._proofs: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        self._requests: dict[str, Record] = {}
        self._first_reply_t = float("inf")
        self._silences: dict[str, tuple[float, float]] = {}
        self._request_times: dict[str, float] = {}
        self._unexpected_replies: list[tuple[str, float]] = []
        self._refusals: list[tuple[float, float, str | None]] = []
        self._confirmed_exports: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        self._standby_away_t = float("inf")
        self._last_t = 0.0

    def read(self, path: Path) -> None:
        """Read the ledger."""
        readers: dict[str, Callable[[Record, int], None]] = {
            "start": self._start,
            "publish": self._publish,
            "confirm": self._confirm,
            "ask": self._ask,
            "reply": self._reply,
            "silence": self._silence,
            "unsent": self._unsent,
            "unexpected-reply": self._unexpected_reply,
            "fault": self._fault,
            "back": self._back,
            "recovered": self._recovered,
            "calm": self._calm,
            "stuck": self._stuck,
            "exit": self._exit,
            "affected": self._affected,
            "standby away": self._standby_away,
            "standby back": self._standby_back,
            "unreplicated": self._unreplicated,
            "shares": lambda record, _: self.shares.note(record),
            "bad-ask": lambda record, _: self.bad_replies.note_request(record),
            "bad-unsent": lambda record, _: self.bad_replies.note_unsent(record),
            "bad-reply": lambda record, _: self.bad_replies.note_reply(record),
        }
        for offset, record in read(path):
            readers[record["k"]](record, offset)
            self._last_t = record["t"]

    def disturbances(self, start: float, end: float) -> list[Fault]:
        """The faults that were on between `start` and `end`, or after which calm had not come yet."""
        return [
            fault
            for fault in self.faults
            if fault.start - FAULT_GRACE_S < end and start < (fault.calm or float("inf")) + FAULT_GRACE_S
        ]

    def judge_calm(self) -> None:
        """If there were faults, there must have been enough calm."""
        ends = [fault.start for fault in self.faults[1:]] + [self._last_t]
        calm_s = sum(
            max(0.0, end - (fault.calm or float("inf")) - 2 * FAULT_GRACE_S)
            for fault, end in zip(self.faults, ends, strict=False)
        )
        self.verdict.figures["seconds of calm"] = round(calm_s)
        if self.faults and calm_s < CALM_MIN_S:
            self.verdict.add("no calm", f"{calm_s:.1f} s of it")

    def judge_silence(self) -> None:
        """In calm, a request without a reply must be answered when it is repeated.

        Requests before the first reply are not judged: the workers were not up yet.
        """
        in_fault = in_calm = 0
        for ident, (start, end) in self._silences.items():
            if end < self._first_reply_t:
                continue
            faults = self.disturbances(start, end)
            in_fault += bool(faults)
            in_calm += not faults
            if "retryOf" not in self._requests[ident]:
                continue
            faults = [fault for fault in faults if fault.touches(self._org_of(self._requests[ident]))]
            if all(fault.of_the_database_alone for fault in faults):
                kind = "unanswered though only the database failed" if faults else "unanswered in calm"
                self.verdict.add(kind, f"request {ident} at {start:.1f}")
        for start, end, org in self._refusals:
            if start < self._first_reply_t:
                continue
            if not any(fault.touches(org) and fault.explains_refusal(start) for fault in self.disturbances(start, end)):
                self.verdict.add("unanswered in calm", f"UNAVAILABLE at {end:.1f}, though a worker had a database")
        self.verdict.figures["requests"] = self.request_count
        self.verdict.figures["answered"] = self.reply_count
        self.verdict.figures["unanswered during faults"] = in_fault
        self.verdict.figures["unanswered in calm"] = in_calm

    def judge_unexpected_replies(self) -> None:
        """In calm no reply may come late or twice. The first requests wait for a worker, so theirs are not judged."""
        for ident, t in self._unexpected_replies:
            request_t = self._request_times[ident]
            if request_t > self._first_reply_t and not self.disturbances(request_t, t):
                self.verdict.add("late or second reply in calm", f"to request {ident} at {t:.1f}")
        self.verdict.figures["late or second replies"] = len(self._unexpected_replies)

    def judge_workers(self) -> None:
        """In calm, no worker may be idle. And bad requests get the right answers."""
        self.shares.judge(lambda start, end: not self.disturbances(start, end), self.verdict)
        self.bad_replies.judge(
            lambda start, end: any(not CONTAINED_KINDS.issuperset(f.kinds) for f in self.disturbances(start, end)),
            self.verdict,
        )

    def _org_of(self, ask: Record) -> str | None:
        request = ask["request"]
        return request["orgId"] if "orgId" in request else self.runs[request["runId"]].org or None

    def _affected(self, record: Record, offset: int) -> None:
        self.faults[-1].affected.add(record["org"])

    def _standby_away(self, record: Record, offset: int) -> None:
        self._standby_away_t = record["t"]

    def _standby_back(self, record: Record, offset: int) -> None:
        self._standby_away_t = float("inf")

    def _unreplicated(self, record: Record, offset: int) -> None:
        for key in record["keys"]:
            self.verdict.add("acknowledged without the standby", f"event {key}, before {record['t']:.1f}")

    def _start(self, record: Record, offset: int) -> None:
        self.wall_minus_t = self.leases.wall_minus_t = record["wall"] - record["t"]

    def _publish(self, record: Record, offset: int) -> None:
        key = record["key"]
        self.attempts[record["mid"]] = key
        if key in self.messages:
            return
        code = record.get("code")
        self.messages[key] = PublishedMessage(offset, record["type"], record["t"], code)
        if code is None:
            self._may_be_stored(key, record["type"], json.loads(record["body"]))

    def _may_be_stored(self, key: str, event_type: str, event: Json) -> None:
        run = self.runs[event["runId"]]
        run.events.append(key)
        run.org = event["orgId"]
        if event_type == "run-finished":
            self.leases.note_finished(event["runId"], self.messages[key].first_t)
            if event["status"] != "failed":
                for claim in event["claimIds"]:
                    self._exporters[event["orgId"], claim].add(event["runId"])

    def _confirm(self, record: Record, offset: int) -> None:
        key = self.attempts[record["mid"]]
        message = self.messages[key]
        if message.confirm_t is None:
            message.confirm_t = record["t"]
        if message.code is None:
            if message.event_type == "run-finished":
                self._note_confirmed_exports(self._bodies.event(message), record["t"])
            del self.attempts[record["mid"]]
        else:
            self.confirmed_poison.add(record["mid"])

    def _note_confirmed_exports(self, event: Json, t: float) -> None:
        if event["status"] != "failed":
            for claim in event["claimIds"]:
                self._confirmed_exports[event["orgId"], claim].setdefault(event["runId"], t)

    def _ask(self, record: Record, offset: int) -> None:
        self.request_count += 1
        self._requests[record["id"]] = record
        self._request_times[record["id"]] = record["t"]
        if record["op"] in ("reserve-claims", "release-claims"):
            self.leases.note_request(record)
        if record["op"] == "reverse-export":
            self.reversals.note_request(record)

    def _unsent(self, record: Record, offset: int) -> None:
        del self._requests[record["id"]]
        self.request_count -= 1

    def _silence(self, record: Record, offset: int) -> None:
        self._silences[record["id"]] = (self._requests[record["id"]]["t"], record["t"])

    def _unexpected_reply(self, record: Record, offset: int) -> None:
        self._unexpected_replies.append((record["id"], record["t"]))

    def _reply(self, record: Record, offset: int) -> None:
        ask, reply = self._requests.pop(record["id"]), record["reply"]
        self.reply_count += 1
        self._first_reply_t = min(self._first_reply_t, record["t"])
        if not reply["ok"] and reply["error"]["code"] == "UNAVAILABLE":
            self._refusals.append((ask["t"], record["t"], self._org_of(ask)))
            return
        if ask["op"] in WRITES and reply["ok"] and ask["t"] > self._standby_away_t:
            self.verdict.add("acknowledged without the standby", f"{ask['op']} at {record['t']:.1f}")
        judges = {
            "check-claims": self._judge_claims,
            "get-export-run-by-id": self._judge_run,
            "reserve-claims": self._judge_reservation,
            "release-claims": self.leases.judge_release,
            "reverse-export": self._judge_reversal,
        }
        for complaint in judges[ask["op"]](ask, reply, record["t"]):
            self.verdict.add("wrong reply", f"{complaint}, requested at {ask['t']}: {json.dumps(ask['request'])[:300]}")

    def _judge_claims(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        if not reply["ok"]:
            yield f"error {reply['error']['code']}"
            return
        org, claim_ids = ask["request"]["orgId"], ask["request"]["claimIds"]
        exported = dict(reply["exported"])
        lists = [claim for claim, _ in reply["exported"]], reply["reserved"], reply["unexported"]
        in_reply = sorted(claim for each in lists for claim in each)
        is_ordered = all([claim for claim in claim_ids if claim in each] == each for each in lists)
        if in_reply != sorted(claim_ids) or not is_ordered:
            yield "not each claim once in the order of the request"
        if impossible := [c for c in reply["reserved"] if not self.leases.was_requested(org, c)]:
            yield f"no run requested {impossible}"
        for claim in claim_ids:
            runs = set(exported.get(claim, ()))
            proofs = self._proofs[org, claim]
            if claim in exported and (not runs or len(runs) < len(exported[claim])):
                yield f"{claim} exported by no run, or by one twice"
            if missing := self._certain_exporters(org, claim, ask["t"]) - runs:
                yield f"{claim} was certainly exported by {sorted(missing)}"
            if impossible_runs := runs - self._exporters.get((org, claim), set()):
                yield f"{claim} cannot have been exported by {sorted(impossible_runs)}"
            for run in sorted(run for run in runs if self.reversals.is_certain((org, claim, run), ask["t"])):
                self.verdict.add("reversal undone", f"{claim} of {run} was exported again at {t:.1f}")
            for run, confirm_t in self._confirmed_exports.get((org, claim), {}).items():
                if run in runs or self.reversals.may_be((org, claim, run)):
                    continue
                if confirm_t < ask["t"] - SETTLED_S and self._is_calm_for(org, confirm_t, ask["t"]):
                    yield f"{claim} was exported by {run}, confirmed {ask['t'] - confirm_t:.1f} s before"
            for run in runs:
                proofs.setdefault(run, t)

    def _certain_exporters(self, org: str, claim: str, before_t: float) -> set[str]:
        """The runs that certainly exported a claim before this time, and that nobody asked to take back."""
        runs = {run for run, since in self._proofs[org, claim].items() if since < before_t}
        return {run for run in runs if not self.reversals.may_be((org, claim, run))}

    def _judge_reversal(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        org, run = ask["request"]["orgId"], ask["request"]["runId"]
        return self.reversals.judge(
            ask,
            reply,
            t,
            can_be_exported=lambda claim: run in self._exporters.get((org, claim), ()),
            is_exported=lambda claim: self._proofs[org, claim].get(run, t) < ask["t"],
            is_stored=run in self.runs and any(proof[0] < ask["t"] for proof in self.runs[run].proofs),
        )

    def _is_calm_for(self, org: str, start: float, end: float) -> bool:
        return not any(fault.touches(org) for fault in self.disturbances(start, end))

    def _judge_reservation(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        yield from self.leases.judge_reservation(ask, reply, t)
        if not reply["ok"]:
            return
        org, holder = ask["request"]["orgId"], ask["request"]["runId"]
        for claim in reply["result"]["granted"]:
            if before := self._certain_exporters(org, claim, ask["t"]):
                yield f"{claim} was granted, though certainly exported by {sorted(before)}"
            first_t = self.leases.first_request_t(org, claim, holder)
            assert first_t is not None
            for run in self.reversals.runs_of(org, claim, first_t):
                self.reversals.due_grants.add((org, claim, holder, run))
        for conflict in reply["result"]["conflicts"]:
            export = org, conflict["claimId"], conflict["runId"]
            if conflict["reason"] == "exported" and self.reversals.is_certain(export, ask["t"]):
                self.verdict.add("reversal undone", f"{conflict} at {t:.1f}")
            exporters = self._exporters.get((org, conflict["claimId"]), set())
            if conflict["reason"] == "exported" and conflict["runId"] not in exporters:
                yield f"{conflict['claimId']} cannot have been exported by {conflict['runId']}"

    def _judge_run(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        run_id = ask["request"]["runId"]
        proofs = [each for each in self.runs[run_id].proofs if each[0] < ask["t"]] if run_id in self.runs else []
        if not reply["ok"]:
            if reply["error"]["code"] != "RUN_NOT_FOUND" or proofs:
                yield f"error {reply['error']['code']} for run {run_id}"
            return
        run, evidence = reply["result"], self.runs.get(run_id)
        if evidence is None or not evidence.events or run["runId"] != run_id or run["orgId"] != evidence.org:
            yield f"run {run_id} cannot be stored yet"
            return
        claims = frozenset(run["claimIds"]) | {each["claimId"] for each in run["skippedClaims"]}
        rank = STATUSES.index(run["status"])
        if any(rank < status or not before <= claims for _, status, before in proofs):
            yield f"less than in an earlier reply: {json.dumps(run)}"
        events = [(self.messages[key].event_type, self._bodies.event(self.messages[key])) for key in evidence.events]
        sizes = range(1, len(events) + 1)
        if not any(is_run_of(run, some) for some in chain.from_iterable(combinations(events, size) for size in sizes)):
            yield f"no set of its events leads to: {json.dumps(run)}"
        if not evidence.proofs or evidence.proofs[-1][1:] != (rank, claims):
            evidence.proofs.append((t, rank, claims))

    def _fault(self, record: Record, offset: int) -> None:
        self.faults.append(Fault(record["kinds"], record["t"]))

    def _back(self, record: Record, offset: int) -> None:
        self.faults[-1].back = record["at"]

    def _recovered(self, record: Record, offset: int) -> None:
        self.faults[-1].recovered = record["t"]

    def _calm(self, record: Record, offset: int) -> None:
        self.faults[-1].calm = record["t"]

    def _exit(self, record: Record, offset: int) -> None:
        last = self.faults[-1] if self.faults and self.faults[-1].calm is None else None
        has_other_fault = last is not None and (
            len(last.kinds) > 1 or any(fault.calm is None for fault in self.faults[-2:-1])
        )
        right_codes = {0}
        if has_other_fault:
            right_codes.add(1)
        if (has_other_fault or last is None) and record["age"] < STARTING_S:
            right_codes.add(-signal.SIGTERM)
        if record["code"] not in right_codes:
            during = " and ".join(last.kinds) if last else "calm"
            self.verdict.add(
                "wrong exit code", f"{record['code']} of worker {record['worker']} at {record['t']:.1f} in {during}"
            )

    def _stuck(self, record: Record, offset: int) -> None:
        self.verdict.add(
            "no recovery", f"{record['kind']} at {record['t']:.1f}: the queue was not emptied, or not declared again"
        )


class Bodies:
    """The bodies of published messages, read from the ledger by their offset."""

    def __init__(self, text: mmap.mmap) -> None:
        self._text = text

    @classmethod
    @contextmanager
    def of(cls, ledger: Path) -> Iterator["Bodies"]:
        """Open a ledger."""
        with ledger.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            yield cls(text)

    def raw(self, message: PublishedMessage) -> bytes:
        """The body of a message, as it was published."""
        record = self._record(message)
        return record["body"].encode() if "body" in record else base64.b64decode(record["b64"])

    def event(self, message: PublishedMessage) -> Json:
        """The event in the body of a message. The message must be no poison."""
        event: Json = json.loads(self._record(message)["body"])
        return event

    def _record(self, message: PublishedMessage) -> Record:
        self._text.seek(message.offset)
        record: Record = json.loads(self._text.readline())
        return record
