"""The judge. It knows the ledger, the contract (DESIGN sections 2 and 3) and nothing of the worker.

**The store.** The log must hold every confirmed good event once, with what it said; a good event whose
confirm never came may be there or not; nothing else may be. Every run and every claim must then be, column
by column, what the stored set of events comes to by the rules of the contract, written here a second time.

**Dead letters.** Every confirmed attempt to publish poison must be in the dead-letter queue of its type,
with its body and the right reason, and nothing but poison may be there. Delivery is at least once, so a
second copy of one attempt is in order where a fault lay between the two (by `x-failed-at`, with a second's
grace); anywhere else it is doubled.

**Double exports.** For every two runs that exported one claim, by what is stored, there is one record, and at
least one alert; those of one claim came in the order of their ids.

**Replies.** A reply must have been true at some moment between the request and the reply. What is stored,
stays; so there is such a moment if and only if the reply says no less than was certainly stored when the
request was noted, before it was sent, and no more than can have been stored when the reply was noted, after
it had come.
- Certainly stored by then: what a reply noted earlier has proven. Can have been stored by then: the events
  whose first publish was noted earlier.
- check-claims names each claim once, in the order asked, in exactly one of the two lists. The runs named
  for a claim include all that were proven by then to have exported it, and are among those which can have
  exported it.
- get-export-run-by-id says what some of the events published by then come to, with a status no lower than
  proven and all claims proven; RUN_NOT_FOUND is right only for a run not proven.
- reserve-claims grants no claim that was proven to be exported, and none that another run held all the while
  (leases.py).
- UNAVAILABLE is right; every other error is wrong.

In calm (no fault on, and all workers back since the last one) a request that got no answer, or UNAVAILABLE, must get
one when it is repeated, and no reply comes late or twice. Around a fault it may: a worker's ack can be lost where its
reply is not. A fault of the database alone excuses UNAVAILABLE, but no silence: broker and workers were whole.

**Workers.** One that is told to stop ends with 0; beside another fault it may give up, and end with 1.
"""

import base64
import json
import mmap
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg

from tests.chaos import alerts, dead_letters
from tests.chaos.dead_letters import DeadLetter
from tests.chaos.leases import Leases
from tests.chaos.ledger import Record, read
from tests.chaos.rules import STATUSES, claims_of, run_of

Json = dict[str, Any]

FAULT_GRACE_S: Final = 1.0
NAMED_MAX: Final = 10
"""Of each sort of violation so many are named."""

CALM_MIN_S: Final = 4.0
"""With less of it, what must not happen in calm had no chance to."""

DATABASE_KINDS: Final = {
    "database killed",
    "database restarted",
    "database connections terminated",
    "tables locked",
    "database read-only",
    "database wire cut",
    "database wire frozen",
    "database wire slow",
}
"""Faults that leave the broker, the workers and the wire between them alone."""

STARTING_S: Final = 10.0
"""A worker that is younger may not know yet what to do when it is told to stop."""

COPIES_A_FAULT_MAX: Final = 200
"""Alerts that may come again after a fault: each worker can have published a batch that it did not get to note."""


@dataclass
class Verdict:
    """What was found, by sort, and the facts beside it."""

    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    facts: Json = field(default_factory=dict)

    def blame(self, sort: str, what: str) -> None:
        """Note a violation."""
        self.found[sort].append(what)

    def close(self) -> None:
        """Turn what was found into lines."""
        for sort, each in self.found.items():
            self.failures += [f"{sort}: {what}" for what in each[:NAMED_MAX]]
            if len(each) > NAMED_MAX:
                self.failures.append(f"{sort}: and {len(each) - NAMED_MAX} more")


@dataclass(slots=True)
class Sent:
    """A message that exporters published: where its body is, when it first went out, how it must end."""

    offset: int
    event_type: str
    first_t: float
    code: str | None
    confirmed: bool = False


@dataclass
class Fault:
    """A group of faults that overlapped: from the first one's start until all was well again."""

    kinds: list[str]
    start: float
    back: float | None = None
    recovered: float | None = None
    calm: float | None = None

    @property
    def of_the_database_alone(self) -> bool:
        """Whether all else was whole."""
        return DATABASE_KINDS.issuperset(self.kinds)


@dataclass
class Known:
    """What can have been stored of one run by now, and what is proven to be."""

    events: list[str] = field(default_factory=list)
    org: str = ""
    proven: list[tuple[float, int, frozenset[str]]] = field(default_factory=list)


class Book:
    """The ledger, read once from beginning to end; replies are judged on the way."""

    def __init__(self, verdict: Verdict, bodies: "Bodies") -> None:
        self.verdict = verdict
        self._bodies = bodies
        self.sent: dict[str, Sent] = {}
        self.runs: dict[str, Known] = defaultdict(Known)
        self.attempts: dict[str, str] = {}  # poison, and what is not confirmed yet
        self.confirmed_poison: set[str] = set()
        self.faults: list[Fault] = []
        self.wall_minus_t = 0.0
        self.leases = Leases()
        self.asked = 0
        self.answered = 0
        self._exporting: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._proven: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        self._asks: dict[str, Record] = {}
        self._first_reply_t = float("inf")
        self._silent: dict[str, tuple[float, float]] = {}
        self._asked_t: dict[str, float] = {}
        self._unawaited: list[tuple[str, float]] = []
        self._unavailable_again: list[tuple[float, float]] = []
        self._last_t = 0.0

    def read(self, path: Path) -> None:
        """Read the ledger."""
        readers = {
            "start": self._start,
            "publish": self._publish,
            "confirm": self._confirm,
            "ask": self._ask,
            "reply": self._reply,
            "silence": self._silence,
            "unsent": self._unsent,
            "unawaited": self._reply_unawaited,
            "fault": self._fault,
            "back": self._back,
            "recovered": self._recovered,
            "calm": self._calm,
            "stuck": self._stuck,
            "exit": self._exit,
        }
        for offset, record in read(path):
            readers[record["k"]](record, offset)
            self._last_t = record["t"]

    def disturbances(self, start: float, end: float) -> list[Fault]:
        """The faults that were on, or not yet recovered from, in this time."""
        return [
            fault
            for fault in self.faults
            if fault.start - FAULT_GRACE_S < end and start < (fault.calm or float("inf")) + FAULT_GRACE_S
        ]

    def judge_calm(self) -> None:
        """There must have been some, if there were faults."""
        ends = [fault.start for fault in self.faults[1:]] + [self._last_t]
        calm_s = sum(
            max(0.0, end - (fault.calm or float("inf")) - 2 * FAULT_GRACE_S)
            for fault, end in zip(self.faults, ends, strict=False)
        )
        self.verdict.facts["seconds of calm"] = round(calm_s)
        if self.faults and calm_s < CALM_MIN_S:
            self.verdict.blame("no calm", f"{calm_s:.1f} s of it")

    def judge_silence(self) -> None:
        """In calm, one retry must cure a request that was not answered. Nobody answers before the first reply."""
        during = calm = 0
        for ident, (start, end) in self._silent.items():
            if end < self._first_reply_t:
                continue
            faults = self.disturbances(start, end)
            during += bool(faults)
            calm += not faults
            if "retryOf" in self._asks[ident] and all(fault.of_the_database_alone for fault in faults):
                sort = "unanswered though only the database failed" if faults else "unanswered in calm"
                self.verdict.blame(sort, f"request {ident} at {start:.1f}")
        for start, end in self._unavailable_again:
            if not self.disturbances(start, end):
                self.verdict.blame("unanswered in calm", f"UNAVAILABLE, and again at {end:.1f}")
        self.verdict.facts["requests"] = self.asked
        self.verdict.facts["answered"] = self.answered
        self.verdict.facts["unanswered during faults"] = during
        self.verdict.facts["unanswered in calm"] = calm

    def judge_unawaited(self) -> None:
        """In calm no reply comes a second time, or when nobody waits any more; but the first ones wait for a worker."""
        for ident, t in self._unawaited:
            asked_t = self._asked_t[ident]
            if asked_t > self._first_reply_t and not self.disturbances(asked_t, t):
                self.verdict.blame("late or second reply in calm", f"to request {ident} at {t:.1f}")
        self.verdict.facts["late or second replies"] = len(self._unawaited)

    def _start(self, record: Record, offset: int) -> None:
        self.wall_minus_t = self.leases.wall_minus_t = record["wall"] - record["t"]

    def _publish(self, record: Record, offset: int) -> None:
        key = record["key"]
        self.attempts[record["mid"]] = key
        if key in self.sent:
            return
        code = record.get("code")
        self.sent[key] = Sent(offset, record["type"], record["t"], code)
        if code is None:
            self._may_be_stored(key, record["type"], json.loads(record["body"]))

    def _may_be_stored(self, key: str, event_type: str, event: Json) -> None:
        run = self.runs[event["runId"]]
        run.events.append(key)
        run.org = event["orgId"]
        if event_type == "run-finished":
            self.leases.note_finished(event["runId"], self.sent[key].first_t)
            if event["status"] != "failed":
                for claim in event["claimIds"]:
                    self._exporting[event["orgId"], claim].add(event["runId"])

    def _confirm(self, record: Record, offset: int) -> None:
        key = self.attempts[record["mid"]]
        sent = self.sent[key]
        sent.confirmed = True
        if sent.code is None:
            del self.attempts[record["mid"]]
        else:
            self.confirmed_poison.add(record["mid"])

    def _ask(self, record: Record, offset: int) -> None:
        self.asked += 1
        self._asks[record["id"]] = record
        self._asked_t[record["id"]] = record["t"]
        if record["op"] in ("reserve-claims", "release-claims"):
            self.leases.note_asked(record)

    def _unsent(self, record: Record, offset: int) -> None:
        del self._asks[record["id"]]
        self.asked -= 1

    def _silence(self, record: Record, offset: int) -> None:
        self._silent[record["id"]] = (self._asks[record["id"]]["t"], record["t"])

    def _reply_unawaited(self, record: Record, offset: int) -> None:
        self._unawaited.append((record["id"], record["t"]))

    def _reply(self, record: Record, offset: int) -> None:
        ask, reply = self._asks.pop(record["id"]), record["reply"]
        self.answered += 1
        self._first_reply_t = min(self._first_reply_t, record["t"])
        if not reply["ok"] and reply["error"]["code"] == "UNAVAILABLE":
            if "retryOf" in ask:
                self._unavailable_again.append((ask["t"], record["t"]))
            return
        judges = {
            "check-claims": self._judge_claims,
            "get-export-run-by-id": self._judge_run,
            "reserve-claims": self._judge_reservation,
            "release-claims": self.leases.judge_release,
        }
        for complaint in judges[ask["op"]](ask, reply, record["t"]):
            self.verdict.blame("wrong reply", f"{complaint}, asked at {ask['t']}: {json.dumps(ask['request'])[:300]}")

    def _judge_claims(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        if not reply["ok"]:
            yield f"error {reply['error']['code']}"
            return
        org, asked = ask["request"]["orgId"], ask["request"]["claimIds"]
        exported = dict(reply["exported"])
        lists = [claim for claim, _ in reply["exported"]], reply["reserved"], reply["unexported"]
        told = sorted(claim for each in lists for claim in each)
        if told != sorted(asked) or any([claim for claim in asked if claim in each] != each for each in lists):
            yield "not each claim once in the order asked"
        if impossible := [c for c in reply["reserved"] if not self.leases.asked_for(org, c)]:
            yield f"nobody asked to reserve {impossible}"
        for claim in asked:
            named = set(exported.get(claim, ()))
            proven = self._proven[org, claim]
            if claim in exported and (not named or len(named) < len(exported[claim])):
                yield f"{claim} exported by no run, or by one twice"
            if missing := {run for run, since in proven.items() if since < ask["t"]} - named:
                yield f"{claim} was known to be exported by {sorted(missing)}"
            if wrong := named - self._exporting.get((org, claim), set()):
                yield f"{claim} cannot have been exported by {sorted(wrong)}"
            for run in named:
                proven.setdefault(run, t)

    def _judge_reservation(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        yield from self.leases.judge_reservation(ask, reply, t)
        if not reply["ok"]:
            return
        org = ask["request"]["orgId"]
        for claim in reply["result"]["granted"]:
            if before := {run for run, since in self._proven[org, claim].items() if since < ask["t"]}:
                yield f"{claim} was granted, though known to be exported by {sorted(before)}"
        for conflict in reply["result"]["conflicts"]:
            exporting = self._exporting.get((org, conflict["claimId"]), set())
            if conflict["reason"] == "exported" and conflict["runId"] not in exporting:
                yield f"{conflict['claimId']} cannot have been exported by {conflict['runId']}"

    def _judge_run(self, ask: Record, reply: Json, t: float) -> Iterable[str]:
        run_id = ask["request"]["runId"]
        proven = [each for each in self.runs[run_id].proven if each[0] < ask["t"]] if run_id in self.runs else []
        if not reply["ok"]:
            if reply["error"]["code"] != "RUN_NOT_FOUND" or proven:
                yield f"error {reply['error']['code']} for run {run_id}"
            return
        run, known = reply["result"], self.runs.get(run_id)
        if known is None or not known.events or run["runId"] != run_id or run["orgId"] != known.org:
            yield f"run {run_id} cannot have been known"
            return
        claims = frozenset(run["claimIds"]) | {each["claimId"] for each in run["skippedClaims"]}
        rank = STATUSES.index(run["status"])
        if any(rank < status or not before <= claims for _, status, before in proven):
            yield f"less than was known: {json.dumps(run)}"
        events = [(self.sent[key].event_type, self._bodies.event(self.sent[key])) for key in known.events]
        sizes = range(1, len(events) + 1)
        if not any(_says(run, some) for some in chain.from_iterable(combinations(events, size) for size in sizes)):
            yield f"what none of its events come to: {json.dumps(run)}"
        if not known.proven or known.proven[-1][1:] != (rank, claims):
            known.proven.append((t, rank, claims))

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
        is_beside = last is not None and (
            len(last.kinds) > 1 or any(fault.calm is None for fault in self.faults[-2:-1])
        )
        right = {0}
        if is_beside:
            right.add(1)
        if (is_beside or last is None) and record["age"] < STARTING_S:
            right.add(-signal.SIGTERM)
        if record["code"] not in right:
            during = " and ".join(last.kinds) if last else "calm"
            self.verdict.blame(
                "wrong exit code", f"{record['code']} of worker {record['worker']} at {record['t']:.1f} in {during}"
            )

    def _stuck(self, record: Record, offset: int) -> None:
        self.verdict.blame(
            "no recovery", f"{record['kind']} at {record['t']:.1f}: the queue did not empty, or come back"
        )


async def check(
    ledger: Path, *, database_url: str, database_log: Path, amqp_url: str, recovery_max_s: float
) -> Verdict:
    """Compare what is there with what the ledger says must be."""
    verdict = Verdict()
    started = time.monotonic()
    with Bodies.of(ledger) as bodies:
        book = Book(verdict, bodies)
        book.read(ledger)
        book.judge_calm()
        book.judge_silence()
        book.judge_unawaited()
        judge_recovery(book, verdict, recovery_max_s)
        connection = await asyncpg.connect(database_url)
        try:
            exporting = await judge_store(connection, book, bodies)
            await judge_double_exports(connection, await alerts.all_of_them(amqp_url), exporting, book)
            verdict.facts["claims granted"] = book.leases.granted
            verdict.facts["claims refused"] = book.leases.refused
            deadlocks = await connection.fetchval("SELECT sum(deadlocks)::int FROM pg_stat_database")
        finally:
            await connection.close()
        judge_dead_letters(await dead_letters.all_of_them(amqp_url), book, bodies)
    judge_deadlocks(deadlocks, database_log.read_text(errors="replace"), verdict)
    verdict.facts["seconds to check"] = round(time.monotonic() - started, 1)
    verdict.close()
    return verdict


class Bodies:
    """The bodies in the ledger, found again by their place."""

    def __init__(self, text: mmap.mmap) -> None:
        self._text = text

    @classmethod
    @contextmanager
    def of(cls, ledger: Path) -> Iterator["Bodies"]:
        """Those of a ledger, while it is open."""
        with ledger.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            yield cls(text)

    def raw(self, sent: Sent) -> bytes:
        """A body as it was published."""
        record = self._record(sent)
        return record["body"].encode() if "body" in record else base64.b64decode(record["b64"])

    def event(self, sent: Sent) -> Json:
        """A good event."""
        event: Json = json.loads(self._record(sent)["body"])
        return event

    def _record(self, sent: Sent) -> Record:
        self._text.seek(sent.offset)
        record: Record = json.loads(self._text.readline())
        return record


def judge_recovery(book: Book, verdict: Verdict, recovery_max_s: float) -> None:
    """After each fault the service must serve again in time, and all workers must be back in time."""
    longest, longest_calm, by_kind = 0.0, 0.0, Counter[str]()
    for fault in book.faults:
        by_kind.update(fault.kinds)
        if fault.recovered is None or fault.back is None or fault.calm is None:
            verdict.blame("no recovery", f"after {' and '.join(fault.kinds)} at {fault.start:.1f}")
            continue
        took, until_calm = fault.recovered - fault.back, fault.calm - fault.back
        longest_calm = max(longest_calm, until_calm)
        after = f"after {' and '.join(fault.kinds)} at {fault.start:.1f}"
        if took > recovery_max_s:
            verdict.blame("slow recovery", f"{took:.1f} s {after}")
        elif until_calm > recovery_max_s:
            verdict.blame("slow recovery", f"{until_calm:.1f} s until all workers were back {after}")
        if took > longest:
            longest = took
            verdict.facts["longest recovery after"] = " and ".join(fault.kinds)
    verdict.facts["longest recovery"] = f"{longest:.2f} s"
    verdict.facts["longest until all workers were back"] = f"{longest_calm:.2f} s"
    verdict.facts["pairs of faults"] = sum(len(fault.kinds) > 1 for fault in book.faults)
    verdict.facts["faults"] = dict(sorted(by_kind.items()))


def judge_deadlocks(counted: int, log: str, verdict: Verdict) -> None:
    """There must be none. The statistics start anew when the server crashes; its log does not."""
    deadlocks = max(counted, log.count("ERROR:  deadlock detected"))
    if deadlocks:
        verdict.blame("deadlock", f"{deadlocks} in the database")
    verdict.facts["deadlocks"] = deadlocks


async def judge_store(
    connection: "asyncpg.Connection[asyncpg.Record]", book: Book, bodies: Bodies
) -> dict[tuple[str, str], set[str]]:
    """Log, runs, claims and leases. Returns, by organisation and claim, the runs that exported it by what is stored."""
    stored = await _judge_log(connection, book, bodies)
    await _judge_leases(connection, book.verdict)
    return await _judge_runs(connection, book, stored, bodies)


async def _judge_log(
    connection: "asyncpg.Connection[asyncpg.Record]", book: Book, bodies: Bodies
) -> dict[str, list[str]]:
    """Returns the stored events by run."""
    verdict = book.verdict
    counted: Counter[str] = Counter()
    stored: dict[str, list[str]] = defaultdict(list)
    async with connection.transaction():
        async for row in connection.cursor(
            "SELECT event_id::text, event_type, origin, run_id::text, org_id, occurred_at, payload::text"
            " FROM export_run_events",
            prefetch=1_000,
        ):
            key = row["event_id"]
            if row["event_type"] == "claims-taken":
                if row["run_id"] not in book.leases.taking:
                    verdict.blame("wrong in the store", f"run {row['run_id']} never asked to take an expired lease")
                continue
            counted[key] += 1
            sent = book.sent.get(key)
            if sent is None or sent.code is not None:
                verdict.blame("wrong in the store", f"event {key} was never published")
                continue
            event = bodies.event(sent)
            told = (
                sent.event_type,
                "event",
                event["runId"],
                event["orgId"],
                datetime.fromisoformat(event["occurredAt"]),
            )
            if tuple(row)[1:6] != told or json.loads(row["payload"]) != event:
                verdict.blame("wrong in the store", f"event {key} is logged with other facts")
            if counted[key] == 1:
                stored[event["runId"]].append(key)
    for key, count in counted.items():
        if count > 1:
            verdict.blame("doubled", f"event {key} is in the log {count} times")
    good = {key: sent for key, sent in book.sent.items() if sent.code is None}
    for key, sent in good.items():
        if sent.confirmed and not counted[key]:
            verdict.blame("lost", f"{sent.event_type} {key}, first published at {sent.first_t}")
    verdict.facts["events published"] = len(good)
    verdict.facts["events confirmed"] = sum(sent.confirmed for sent in good.values())
    verdict.facts["events stored"] = len(counted)
    return stored


async def _judge_runs(
    connection: "asyncpg.Connection[asyncpg.Record]",
    book: Book,
    stored: dict[str, list[str]],
    bodies: Bodies,
) -> dict[tuple[str, str], set[str]]:
    missing = set(stored)
    claims_found = 0
    exporting: dict[tuple[str, str], set[str]] = defaultdict(set)
    async with connection.transaction():
        async for row in connection.cursor(
            "SELECT *, (SELECT json_agg(json_build_array(claim_id, org_id, outcome, skip_reason))"
            " FROM export_run_claims AS claim WHERE claim.run_id = run.run_id)::text AS claims"
            " FROM export_runs AS run",
            prefetch=1_000,
        ):
            run_id = str(row["run_id"])
            if run_id not in missing:
                book.verdict.blame("wrong in the store", f"run {run_id} follows from no stored event")
                continue
            missing.discard(run_id)
            sent = [book.sent[key] for key in stored[run_id]]
            events = [(each.event_type, bodies.event(each)) for each in sent]
            claims = json.loads(row["claims"] or "[]")
            claims_found += len(claims)
            for complaint in _compare(row, claims, events):
                book.verdict.blame("wrong in the store", f"run {run_id}: {complaint}")
            for claim, (outcome, _) in claims_of(events).items():
                if outcome == "exported":
                    exporting[row["org_id"], claim].add(run_id)
        in_all = await connection.fetchval("SELECT count(*) FROM export_run_claims")
    if in_all != claims_found:
        book.verdict.blame("wrong in the store", f"{in_all - claims_found} claims of runs that do not exist")
    for run_id in missing:
        book.verdict.blame("wrong in the store", f"run {run_id} is missing, though events of it are stored")
    book.verdict.facts["runs stored"] = len(stored) - len(missing)
    book.verdict.facts["claims stored"] = in_all
    return exporting


async def judge_double_exports(
    connection: "asyncpg.Connection[asyncpg.Record]",
    published: list[Json],
    exporting: dict[tuple[str, str], set[str]],
    book: Book,
) -> None:
    """Every pair of runs that exported one claim is on record once, and was published; and no other."""
    verdict = book.verdict
    wanted = {(org, claim, *sorted(pair)) for (org, claim), runs in exporting.items() for pair in combinations(runs, 2)}
    rows = await connection.fetch("SELECT * FROM double_exports ORDER BY id")
    found = Counter(_pair(row["org_id"], row["claim_id"], row["first_run_id"], row["second_run_id"]) for row in rows)
    for pair in wanted - found.keys():
        verdict.blame("double export missing", f"{pair}")
    for pair, count in found.items():
        if pair not in wanted or count > 1:
            verdict.blame("double export wrong", f"{pair}, {count} times")
    heard = [_pair(alert["orgId"], alert["claimId"], alert["firstRunId"], alert["secondRunId"]) for alert in published]
    for pair in wanted - set(heard):
        verdict.blame("alert lost", f"{pair}")
    recorded = {row["id"]: _alert_of(row) for row in rows}
    for alert in published:
        if recorded.get(alert["id"]) != {name: alert[name] for name in _ALERT_FACTS}:
            verdict.blame("alert wrong", f"{alert}")
    if len(published) - len(recorded) > COPIES_A_FAULT_MAX * (len(book.faults) + 1):
        verdict.blame("doubled", f"{len(published)} alerts of {len(recorded)} double exports")
    latest: dict[tuple[str, str], int] = {}
    seen: set[int] = set()
    for alert in published:
        key = alert["orgId"], alert["claimId"]
        if alert["id"] not in seen and alert["id"] < latest.get(key, 0):
            verdict.blame("alerts out of order", f"{alert}")
        latest[key] = max(latest.get(key, 0), alert["id"])
        seen.add(alert["id"])
    verdict.facts["double exports"] = len(rows)
    verdict.facts["alerts"] = len(published)


_ALERT_FACTS: Final = {
    "eventId": "event_id",
    "orgId": "org_id",
    "claimId": "claim_id",
    "firstRunId": "first_run_id",
    "secondRunId": "second_run_id",
    "foundBy": "found_by",
}


def _alert_of(row: asyncpg.Record) -> Json:
    return {name: str(row[column]) for name, column in _ALERT_FACTS.items()}


async def _judge_leases(connection: "asyncpg.Connection[asyncpg.Record]", verdict: Verdict) -> None:
    """A run that has ended holds nothing."""
    rows = await connection.fetch(
        "SELECT lease.claim_id, lease.run_id FROM claim_leases AS lease"
        " JOIN export_runs AS run USING (run_id, org_id) WHERE run.status <> 'pending'"
    )
    for row in rows:
        verdict.blame("wrong in the store", f"{row['claim_id']} is leased to {row['run_id']}, which has ended")
    verdict.facts["leases left"] = await connection.fetchval("SELECT count(*) FROM claim_leases")


def _says(told: Json, events: Sequence[tuple[str, Json]]) -> bool:
    """Whether a run, as it was told, is what these events come to."""
    run, claims = run_of(events), claims_of(events)
    error, artifact, override = told["error"] or {}, told["artifact"] or {}, told["override"] or {}
    facts = {
        "triggered_by": told["triggeredBy"],
        "format": told["format"],
        "target_system": told["targetSystem"],
        "period_start": told["periodStart"] and date.fromisoformat(told["periodStart"]),
        "period_end": told["periodEnd"] and date.fromisoformat(told["periodEnd"]),
        "status": told["status"],
        "created_at": datetime.fromisoformat(told["createdAt"]),
        "finished_at": told["finishedAt"] and datetime.fromisoformat(told["finishedAt"]),
        "claim_count": told["claimCount"],
        "skipped_count": told["skippedCount"],
        "error_code": error.get("code"),
        "error_detail": error.get("detail"),
        "artifact_key": artifact.get("key"),
        "artifact_sha256": artifact.get("sha256"),
        "artifact_size_bytes": artifact.get("sizeBytes"),
        "external_ack_id": told["externalAckId"],
        "retry_of_run_id": told["retryOfRunId"] and UUID(told["retryOfRunId"]),
        "override_reason": override.get("reason"),
        "override_approved_by": override.get("approvedBy"),
        "has_conflict": told["hasConflict"],
    }
    carried = sorted(claim for claim, (outcome, _) in claims.items() if outcome != "skipped")
    skipped = sorted((claim, reason) for claim, (outcome, reason) in claims.items() if outcome == "skipped")
    return (
        all(run[column] == value for column, value in facts.items())
        and told["claimIds"] == carried
        and [(each["claimId"], each["reason"]) for each in told["skippedClaims"]] == skipped
    )


def _pair(org: str, claim: str, first: object, second: object) -> tuple[str, ...]:
    return (org, claim, *sorted((str(first), str(second))))


def _compare(row: asyncpg.Record, claims: list[list[str]], events: list[tuple[str, Json]]) -> Iterable[str]:
    """What a run's row and its claims have that its events do not say."""
    wanted = run_of(events)
    differing = {column: (row[column], value) for column, value in wanted.items() if row[column] != value}
    if differing:
        yield f"is, and ought to be: {differing}"
    found = {claim: (outcome, reason if outcome == "skipped" else None) for claim, _, outcome, reason in claims}
    if found != claims_of(events) or len(found) != len(claims):
        yield f"claims {claims}"
    if any(org != wanted["org_id"] for _, org, _, _ in claims):
        yield "claims of another organisation"


def judge_dead_letters(found: list[DeadLetter], book: Book, bodies: Bodies) -> None:
    """Every poison is there, with its body and its reason, and nothing else."""
    verdict = book.verdict
    copies: dict[str, list[DeadLetter]] = defaultdict(list)
    for letter in found:
        sent = book.sent.get(book.attempts.get(letter.message_id, ""))
        if sent is None or sent.code is None:
            verdict.blame("dead letter unexpected", f"{letter.code} in {letter.queue}: {letter.body[:200]!r}")
            continue
        said = dead_letters.QUEUES[letter.queue], letter.code, letter.body
        if said != (sent.event_type, sent.code, bodies.raw(sent)):
            verdict.blame("dead letter wrong", f"{letter.code} in {letter.queue} is {sent.code}: {letter.body[:200]!r}")
        copies[letter.message_id].append(letter)
    for message_id in book.confirmed_poison - copies.keys():
        sent = book.sent[book.attempts[message_id]]
        verdict.blame("dead letter missing", f"{sent.code}: {bodies.raw(sent)[:200]!r}")
    for letters in copies.values():
        times = sorted(letter.failed_at - book.wall_minus_t for letter in letters if letter.failed_at is not None)
        for before, after in pairwise(times):
            if not book.disturbances(before, after):
                verdict.blame("doubled", f"dead letter of {letters[0].body[:200]!r}, {after - before:.2f} s later")
    verdict.facts["dead letters"] = len(found)
    verdict.facts["dead letters wanted"] = len(book.confirmed_poison)
    verdict.facts["dead letters twice"] = sum(len(letters) - 1 for letters in copies.values())
