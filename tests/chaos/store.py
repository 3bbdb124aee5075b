"""Compares the tables with the ledger.

**The store.** The event log must have every confirmed good event once, with its content. A good event whose confirm
never came may be there or not. Nothing else may be there. Every run and every claim must have, in each column, the
value that the logged events lead to by the rules (rules.py).

**Double exports.** For every claim that several runs exported, there must be one record. Each of these runs but one
must have an alert: any of them can have been the first. An alert names one run, and claims that this run and the
earlier runs exported. All its copies must be equal.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import asyncpg

from tests.chaos.ledger_index import Bodies, LedgerIndex
from tests.chaos.rules import claims_of, run_of
from tests.chaos.verdict import Json, Verdict

ALERT_CLAIMS_MAX: Final = 100
ALERT_RUNS_MAX: Final = 10
"""An alert names at most this many claims and earlier runs."""

ALERT_COPIES_PER_FAULT_MAX: Final = 200
"""After a fault this many alerts may come twice: a worker may have published a batch and not yet marked it."""


async def judge_store(
    connection: "asyncpg.Connection[asyncpg.Record]", index: LedgerIndex, bodies: Bodies
) -> dict[tuple[str, str], set[str]]:
    """Judge log, runs, claims and leases. Returns, by organisation and claim, the runs that exported it."""
    stored = await _judge_log(connection, index, bodies)
    await _judge_leases(connection, index.verdict)
    return await _judge_runs(connection, index, stored, bodies)


async def _judge_log(
    connection: "asyncpg.Connection[asyncpg.Record]", index: LedgerIndex, bodies: Bodies
) -> dict[str, list[str]]:
    """Judge the event log. Returns the keys of the logged events by run."""
    verdict = index.verdict
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
                if row["run_id"] not in index.leases.taker_runs:
                    verdict.add("wrong in the store", f"run {row['run_id']} never sent takeExpired")
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
                stored[event["runId"]].append(key)
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
    return stored


async def _judge_runs(
    connection: "asyncpg.Connection[asyncpg.Record]",
    index: LedgerIndex,
    stored: dict[str, list[str]],
    bodies: Bodies,
) -> dict[tuple[str, str], set[str]]:
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
            for complaint in _compare(row, claims, events):
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
    exporters: dict[tuple[str, str], set[str]],
    index: LedgerIndex,
) -> None:
    """Every claim that several runs exported has one record and its alerts, and no other claim has one."""
    verdict = index.verdict
    expected = {key: runs for key, runs in exporters.items() if len(runs) > 1}
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
    for key, runs in expected.items():
        if len(without_alert := runs - alerted[key]) > 1:
            verdict.add("alert lost", f"{key}: of one of {sorted(without_alert)}")
    copies = len(published) - len(first_copies)
    if copies > ALERT_COPIES_PER_FAULT_MAX * (len(index.faults) + 1):
        verdict.add("doubled", f"{copies} copies of {len(first_copies)} alerts")
    verdict.figures["double exports"] = len(rows)
    verdict.figures["alerts"] = len(published)
    verdict.figures["alerts twice"] = copies


def _alert_complaints(alert: Json, first_copy: Json, expected: dict[tuple[str, str], set[str]]) -> Iterable[str]:
    claims, earlier_runs = alert["claimIds"], set(alert["earlierRunIds"])
    exporters = [expected.get((alert["orgId"], claim), set()) for claim in claims]
    if alert != first_copy:
        yield "another copy differs"
    if not 0 < len(claims) == len(set(claims)) <= ALERT_CLAIMS_MAX:
        yield "no claim, a claim twice or too many claims"
    if alert["claimCount"] < len(claims) or (len(claims) < ALERT_CLAIMS_MAX and alert["claimCount"] != len(claims)):
        yield "another number of claims"
    if any(alert["runId"] not in runs for runs in exporters):
        yield "the run did not export the claims"
    if not earlier_runs <= set().union(*exporters) - {alert["runId"]}:
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


def _compare(row: asyncpg.Record, claims: list[list[str]], events: list[tuple[str, Json]]) -> Iterable[str]:
    """The differences between a run's row and claims, and what its events lead to."""
    expected = run_of(events)
    differences = {column: (row[column], value) for column, value in expected.items() if row[column] != value}
    if differences:
        yield f"columns with their value and the expected one: {differences}"
    found = {claim: (outcome, reason if outcome == "skipped" else None) for claim, _, outcome, reason in claims}
    if found != claims_of(events) or len(found) != len(claims):
        yield f"claims {claims}"
    if any(org != expected["org_id"] for _, org, _, _ in claims):
        yield "claims of another organisation"
