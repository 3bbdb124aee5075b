"""Checks what a campaign left. It uses the ledger, docs/CONTRACT.md and docs/MERGE_RULES.md, and no code of the worker.

**The store.** store.py compares the tables with the ledger.

**Replies.** ledger_index.py judges each reply while it reads the ledger, bad_replies.py those to bad requests.

**Waits and shares.** waits.py judges how long each event waited to be stored, shares.py whether a worker was idle.

**Dead letters.** For every confirmed attempt to publish a poison message, the dead-letter queue of its type must have
a message with its body and the right error code. Nothing else may be there. Delivery is at least once, so a second
copy of one attempt is allowed if a fault lay between the two copies (by `x-failed-at`, give or take FAULT_GRACE_S). Any
other second copy is a violation.
"""

import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import asyncpg

from tests.chaos.alerts import read_alerts
from tests.chaos.dead_letters import QUEUES, DeadLetter, read_dead_letters
from tests.chaos.ledger_index import Bodies, LedgerIndex
from tests.chaos.store import judge_double_exports, judge_store
from tests.chaos.system import ADMIN_SESSION
from tests.chaos.verdict import Verdict
from tests.chaos.waits import judge_waits


async def check(
    ledger: Path,
    *,
    database_url: str,
    database_log: Path,
    amqp_url: str,
    recovery_max_s: float,
    wait_max_s: float,
) -> Verdict:
    """Compare the database, the queues and the replies with the ledger."""
    verdict = Verdict()
    start = time.monotonic()
    with Bodies.of(ledger) as bodies:
        index = LedgerIndex(verdict, bodies)
        index.read(ledger)
        index.judge_calm()
        index.judge_silence()
        index.judge_unexpected_replies()
        index.judge_workers()
        judge_recovery(index, verdict, recovery_max_s)
        connection = await asyncpg.connect(database_url, server_settings=ADMIN_SESSION)
        try:
            partners = await judge_store(connection, index, bodies)
            await judge_double_exports(connection, await read_alerts(amqp_url), partners, index)
            await judge_waits(connection, index, wait_max_s)
            verdict.figures["claims granted"] = index.leases.grant_count
            verdict.figures["claims refused"] = index.leases.conflict_count
            deadlocks = await connection.fetchval("SELECT sum(deadlocks)::int FROM pg_stat_database")
        finally:
            await connection.close()
        judge_dead_letters(await read_dead_letters(amqp_url), index, bodies)
    judge_deadlocks(deadlocks, database_log.read_text(errors="replace"), verdict)
    verdict.figures["seconds to check"] = round(time.monotonic() - start, 1)
    verdict.close()
    return verdict


def judge_recovery(index: LedgerIndex, verdict: Verdict, recovery_max_s: float) -> None:
    """After each fault the service must answer again, and all workers must consume again, within `recovery_max_s`."""
    longest, longest_calm, by_kind = 0.0, 0.0, Counter[str]()
    for fault in index.faults:
        by_kind.update(fault.kinds)
        if fault.recovered is None or fault.back is None or fault.calm is None:
            verdict.add("no recovery", f"after {' and '.join(fault.kinds)} at {fault.start:.1f}")
            continue
        took, until_calm = fault.recovered - fault.back, fault.calm - fault.back
        longest_calm = max(longest_calm, until_calm)
        after = f"after {' and '.join(fault.kinds)} at {fault.start:.1f}"
        if took > recovery_max_s:
            verdict.add("slow recovery", f"{took:.1f} s {after}")
        elif until_calm > recovery_max_s:
            verdict.add("slow recovery", f"{until_calm:.1f} s until all workers were back {after}")
        if took > longest:
            longest = took
            verdict.figures["longest recovery after"] = " and ".join(fault.kinds)
    verdict.figures["longest recovery"] = f"{longest:.2f} s"
    verdict.figures["longest until all workers were back"] = f"{longest_calm:.2f} s"
    verdict.figures["pairs of faults"] = sum(len(fault.kinds) > 1 for fault in index.faults)
    verdict.figures["faults"] = dict(sorted(by_kind.items()))


def judge_deadlocks(counted: int, log: str, verdict: Verdict) -> None:
    """There must be no deadlock. A crash of PostgreSQL resets its statistics, but not its log, so both are used."""
    deadlocks = max(counted, log.count("ERROR:  deadlock detected"))
    if deadlocks:
        verdict.add("deadlock", f"{deadlocks} in the database")
    verdict.figures["deadlocks"] = deadlocks


def judge_dead_letters(dead_letters: list[DeadLetter], index: LedgerIndex, bodies: Bodies) -> None:
    """Every poison message must be a dead letter with its body and its error code, and nothing else may be one."""
    verdict = index.verdict
    copies: dict[str, list[DeadLetter]] = defaultdict(list)
    for letter in dead_letters:
        message = index.messages.get(index.attempts.get(letter.message_id, ""))
        if message is None or message.code is None:
            verdict.add("dead letter unexpected", f"{letter.code} in {letter.queue}: {letter.body[:200]!r}")
            continue
        if (QUEUES[letter.queue], letter.code, letter.body) != (message.event_type, message.code, bodies.raw(message)):
            text = f"{letter.code} in {letter.queue}, expected {message.code}: {letter.body[:200]!r}"
            verdict.add("dead letter wrong", text)
        copies[letter.message_id].append(letter)
    for message_id in index.confirmed_poison - copies.keys():
        message = index.messages[index.attempts[message_id]]
        verdict.add("dead letter missing", f"{message.code}: {bodies.raw(message)[:200]!r}")
    for letters in copies.values():
        times = sorted(letter.failed_at - index.wall_minus_t for letter in letters if letter.failed_at is not None)
        for before, after in pairwise(times):
            if not index.disturbances(before, after):
                verdict.add("doubled", f"dead letter of {letters[0].body[:200]!r}, {after - before:.2f} s later")
    verdict.figures["dead letters"] = len(dead_letters)
    verdict.figures["dead letters expected"] = len(index.confirmed_poison)
    verdict.figures["second copies of dead letters"] = sum(len(letters) - 1 for letters in copies.values())
