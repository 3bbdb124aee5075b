"""Compares the tables with the ledger.

**The store.** The event log must have every confirmed good event once, with its content. A good event whose confirm
never came may be there or not. Nothing else may be there. Every run and every claim must have, in each column, the
value that the logged events and the logged reversals lead to by the rules (rules.py). The log must have every reversal
that was accepted, and every grant after one.

**Double exports.** Two exports of a claim are a double export unless one run was granted it after the export by the
other had been taken back (docs/decisions/reversals.md). There must be one record for the claim, and an alert for one
run of each such two: any of them can have been the first. An alert names one run, and claims that this run and the
earlier runs exported. All its copies must be equal.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import asyncpg

from tests.chaos.ledger_index import Bodies, LedgerIndex
from tests.chaos.rules import claims_of, run_of
from tests.chaos.verdict import Json, Verdict

DECISIONS: Final = ("claims-taken", "overrides-withdrawn", "export-reversed")
"""The entries of the log that are no events of exporters."""

ALERT_CLAIMS_MAX: Final = 100
ALERT_RUNS_MAX: Final = 10
"""An alert names at most this many claims and earlier runs."""

ALERT_COPIES_PER_FAULT_MAX: Final = 200
"""After a fault this many alerts may come twice: a worker may have published a batch and not yet marked it."""


Partners = dict[tuple[str, str], dict[str, set[str]]]
"""By organisation and claim: for each run that exported it, the others with which it makes a double export."""

Grant = tuple[str, str, str, str]
"""An organisation, a claim, a run that was granted it, and a run whose export had been taken back."""


@dataclass
class StoredLog:
    """What the event log has."""

    events: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The keys of the events of each run."""

    reversed_claims: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The claims of each run that were taken back."""

    granted: set[Grant] = field(default_factory=set)
    """All grants after reversals, and those of them that were not given back."""

    grants: set[Grant] = field(default_factory=set)


async def judge_store(connection: "asyncpg.Connection[asyncpg.Record]", index: LedgerIndex, bodies: Bodies) -> Partners:
    """Judge log, runs, claims and leases. Returns what must be double exports."""
    stored = await _judge_log(connection, index, bodies)
    await _judge_leases(connection, index.verdict)
    _judge_reversals(stored, index)
    exporters = await _judge_runs(connection, index, stored, bodies)
    return {key: partners for key, runs in exporters.items() if (partners := _partners(key, runs, stored.grants))}


def _partners(key: tuple[str, str], runs: Set[str], grants: Set[Grant]) -> dict[str, set[str]]:
    partners = {
        run: {
            other
            for other in runs
            if other != run and (*key, run, other) not in grants and (*key, other, run) not in grants
        }
        for run in runs
    }
    return {run: others for run, others in partners.items() if others}


def _judge_reversals(log: StoredLog, index: LedgerIndex) -> None:
    """What was answered must be in the log."""
    reversals, verdict = index.reversals, index.verdict
    for org, claim, run in reversals.certain:
        if claim not in log.reversed_claims.get(run, ()):
            verdict.add("reversal lost", f"{claim} of {run} of {org}")
    for org, claim, run, reversed_run in reversals.due_grants:
        if (org, claim, run, reversed_run) not in log.granted:
            verdict.add("grant after a reversal lost", f"{claim} of {org}, to {run} after that of {reversed_run}")
    verdict.figures["reversals accepted"] = reversals.accepted_count
    verdict.figures["reversals refused"] = reversals.refused_count
    verdict.figures["exports taken back"] = sum(map(len, log.reversed_claims.values()))
    verdict.figures["grants after reversals"] = len(log.granted)


def _decision_complaints(row: asyncpg.Record, log: StoredLog, index: LedgerIndex) -> Iterable[str]:
    """Note an entry of the log that is no event of an exporter, and say what is wrong with it."""
    entry, org, run = json.loads(row["payload"]), row["org_id"], row["run_id"]
    match row["event_type"]:
        case "claims-taken":
            taken, after_reversals = entry.get("taken", []), entry.get("afterReversals", [])
            if not after_reversals and not taken:
                yield f"run {run} took nothing"
            if taken and run not in index.leases.taker_runs:
                yield f"run {run} never sent takeExpired"
            for each in after_reversals:
                claim, reversed_run = each["claimId"], each["reversedRunId"]
                if claim not in log.reversed_claims.get(reversed_run, ()):
                    yield f"{claim} was granted to {run} after a reversal of {reversed_run} that the log has not"
                if index.leases.first_request_t(org, claim, run) is None:
                    yield f"run {run} never requested {claim}"
                log.granted.add((org, claim, run, reversed_run))
                log.grants.add((org, claim, run, reversed_run))
        case "overrides-withdrawn":
            given_back = set(entry["claimIds"])
            log.grants = {
                grant for grant in log.grants if not (grant[0] == org and grant[2] == run and grant[1] in given_back)
            }
        case _:
            if not index.reversals.was_requested(org, run, entry):
                yield f"nobody asked for this reversal: {entry}"
            if twice := log.reversed_claims[run].intersection(entry["claimIds"]):
                yield f"{sorted(twice)} of {run} were reversed twice"
            log.reversed_claims[run].update(entry["claimIds"])


async def _judge_log(connection: "asyncpg.Connection[asyncpg.Record]", index: LedgerIndex, bodies: Bodies) -> StoredLog:
    """Judge the event log, and read it."""
    verdict = index.verdict
    counted: Counter[str] = Counter()
    log = StoredLog()
    async with connection.transaction():
        async for row in connection.cursor(
            "SELECT event_id::text, event_type, origin, run_id::text, org_id, occurred_at, payload::text"
            " FROM export_run_events ORDER BY position",
            prefetch=1_000,
        ):
            key = row["event_id"]
            if row["event_type"] in DECISIONS:
                for complaint in _decision_complaints(row, log, index):
                    verdict.add("wrong in the store", complaint)
                continue
            counted[key] += 1
            message = index.messages.get(key)
            if message is None or message.code is not None:
                verdict.add("wrong in the store", f"event {key} was never published")
                continue
            event = bodies.event(message)
            expected = (
                message.event_type,
                "event",
                event["runId"],
                event["orgId"],
                datetime.fromisoformat(event["occurredAt"]),
            )
            if tuple(row)[1:6] != expected or json.loads(row["payload"]) != event:
                verdict.add("wrong in the store", f"event {key} is logged with other content")
            if counted[key] == 1:
                log.events[event["runId"]].append(key)
    for key, count in counted.items():
        if count > 1:
            verdict.add("doubled", f"event {key} is in the log {count} times")
    good = {key: message for key, message in index.messages.items() if message.code is None}
    for key, message in good.items():
        if message.confirmed and not counted[key]:
            verdict.add("lost", f"{message.event_type} {key}, first published at {message.first_t}")
    verdict.figures["events published"] = len(good)
    verdict.figures["events confirmed"] = sum(message.confirmed for message in good.values())
    verdict.figures["events stored"] = len(counted)
    return log


async def _judge_runs(
    connection: "asyncpg.Connection[asyncpg.Record]",
    index: LedgerIndex,
    log: StoredLog,
    bodies: Bodies,
) -> dict[tuple[str, str], set[str]]:
    stored = log.events
    missing = set(stored)
    claims_found = 0
    exporters: dict[tuple[str, str], set[str]] = defaultdict(set)
    async with connection.transaction():
        async for row in connection.cursor(
            "SELECT *, (SELECT json_agg(json_build_array(claim_id, org_id, outcome, skip_reason))"
            " FROM export_run_claims AS claim WHERE claim.run_id = run.run_id)::text AS claims"
            " FROM export_runs AS run",
            prefetch=1_000,
        ):
            run_id = str(row["run_id"])
            if run_id not in missing:
                index.verdict.add("wrong in the store", f"run {run_id} follows from no stored event")
                continue
            missing.discard(run_id)
            message = [index.messages[key] for key in stored[run_id]]
            events = [(each.event_type, bodies.event(each)) for each in message]
            claims = json.loads(row["claims"] or "[]")
            claims_found += len(claims)
            for complaint in _compare(row, claims, events, log.reversed_claims.get(run_id, set())):
                index.verdict.add("wrong in the store", f"run {run_id}: {complaint}")
            for claim, (outcome, _) in claims_of(events).items():
                if outcome == "exported":
                    exporters[row["org_id"], claim].add(run_id)
        in_all = await connection.fetchval("SELECT count(*) FROM export_run_claims")
    if in_all != claims_found:
        index.verdict.add("wrong in the store", f"{in_all - claims_found} claims of runs that do not exist")
    for run_id in missing:
        index.verdict.add("wrong in the store", f"run {run_id} is missing, though events of it are stored")
    index.verdict.figures["runs stored"] = len(stored) - len(missing)
    index.verdict.figures["claims stored"] = in_all
    return exporters


async def judge_double_exports(
    connection: "asyncpg.Connection[asyncpg.Record]",
    published: list[Json],
    expected: Partners,
    index: LedgerIndex,
) -> None:
    """Every claim that is a double export has one record and its alerts, and no other claim has one."""
    verdict = index.verdict
    rows = await connection.fetch("SELECT org_id, claim_id FROM double_exported_claims")
    found = Counter(map(tuple, rows))
    for key in expected.keys() - found.keys():
        verdict.add("double export missing", f"{key}")
    for key, count in found.items():
        if key not in expected or count > 1:
            verdict.add("double export wrong", f"{key}, {count} times")
    alerted: dict[tuple[str, str], set[str]] = defaultdict(set)
    first_copies: dict[str, Json] = {}
    for alert in published:
        for complaint in _alert_complaints(alert, first_copies.setdefault(alert["eventId"], alert), expected):
            verdict.add("alert wrong", f"{complaint}: {alert}")
        for claim in alert["claimIds"]:
            alerted[alert["orgId"], claim].add(alert["runId"])
    for key, partners in expected.items():
        without_alert = partners.keys() - alerted[key]
        if pairs := [(run, other) for run in without_alert for other in partners[run] & without_alert if run < other]:
            verdict.add("alert lost", f"{key}: of one of {sorted(pairs)}")
    copies = len(published) - len(first_copies)
    if copies > ALERT_COPIES_PER_FAULT_MAX * (len(index.faults) + 1):
        verdict.add("doubled", f"{copies} copies of {len(first_copies)} alerts")
    verdict.figures["double exports"] = len(rows)
    verdict.figures["alerts"] = len(published)
    verdict.figures["alerts twice"] = copies


def _alert_complaints(alert: Json, first_copy: Json, expected: Partners) -> Iterable[str]:
    claims, earlier_runs = alert["claimIds"], set(alert["earlierRunIds"])
    exporters = [expected.get((alert["orgId"], claim), {}).get(alert["runId"], set()) for claim in claims]
    if alert != first_copy:
        yield "another copy differs"
    if not 0 < len(claims) == len(set(claims)) <= ALERT_CLAIMS_MAX:
        yield "no claim, a claim twice or too many claims"
    if alert["claimCount"] < len(claims) or (len(claims) < ALERT_CLAIMS_MAX and alert["claimCount"] != len(claims)):
        yield "another number of claims"
    if not all(exporters):
        yield "the run did not export the claims, or was allowed to"
    if not earlier_runs <= set().union(*exporters):
        yield "the earlier runs did not export the claims"
    if len(earlier_runs) < ALERT_RUNS_MAX and any(not runs & earlier_runs for runs in exporters):
        yield "no earlier run of a claim"
    if alert["foundBy"] != "another-run":
        yield "found in another way"


async def _judge_leases(connection: "asyncpg.Connection[asyncpg.Record]", verdict: Verdict) -> None:
    """A run that has ended must hold no lease."""
    rows = await connection.fetch(
        "SELECT lease.claim_id, lease.run_id FROM claim_leases AS lease"
        " JOIN export_runs AS run USING (run_id, org_id) WHERE run.status <> 'pending'"
    )
    for row in rows:
        verdict.add("wrong in the store", f"{row['claim_id']} is leased to {row['run_id']}, which has ended")
    verdict.figures["leases left"] = await connection.fetchval("SELECT count(*) FROM claim_leases")


def _compare(
    row: asyncpg.Record, claims: list[list[str]], events: list[tuple[str, Json]], reversed_claims: Set[str]
) -> Iterable[str]:
    """The differences between a run's row and claims, and what its events and reversals lead to."""
    expected = {**run_of(events), "reversed_count": len(reversed_claims)}
    outcomes = claims_of(events)
    for claim in reversed_claims:
        if outcomes.get(claim, ("", None))[0] != "exported":
            yield f"{claim} was reversed, and never exported"
        outcomes[claim] = ("reversed", None)
    differences = {column: (row[column], value) for column, value in expected.items() if row[column] != value}
    if differences:
        yield f"columns with their value and the expected one: {differences}"
    found = {claim: (outcome, reason if outcome == "skipped" else None) for claim, _, outcome, reason in claims}
    if found != outcomes or len(found) != len(claims):
        yield f"claims {claims}"
    if any(org != expected["org_id"] for _, org, _, _ in claims):
        yield "claims of another organisation"
