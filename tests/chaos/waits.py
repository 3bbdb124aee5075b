"""Judges how long events waited: an organisation that no fault is about must not wait for another one's trouble."""

import heapq
from typing import Final

import asyncpg

from tests.chaos.ledger_faults import ALONE_WITHOUT_DATABASE, HAND_OVER_MAX_S, Fault
from tests.chaos.ledger_index import LedgerIndex

LONG_S: Final = 0.5
"""A shorter wait is looked at no further."""

WORST_NAMED: Final = 5


async def judge_waits(connection: "asyncpg.Connection[asyncpg.Record]", index: LedgerIndex, wait_max_s: float) -> None:
    """From its confirm until its commit, an event may wait at most `wait_max_s` seconds.

    It may wait longer while a fault is about its organisation, or about all.
    """
    rows = await connection.fetch(
        "SELECT event_id::text AS key, org_id, min(extract(epoch FROM pg_xact_commit_timestamp(xmin)))::float AS wall"
        " FROM export_run_events WHERE event_type LIKE 'run-%' GROUP BY 1, 2"
    )
    longest: list[tuple[float, str]] = []
    for row in rows:
        message = index.messages.get(row["key"])
        if message is None or message.confirm_t is None or row["wall"] is None:
            continue
        stored_t = row["wall"] - index.wall_minus_t
        wait_s = stored_t - message.confirm_t
        if wait_s < LONG_S:
            continue
        faults = [f for f in index.disturbances(message.confirm_t, stored_t) if f.touches(row["org_id"])]
        if not all(fault.kinds == [ALONE_WITHOUT_DATABASE] for fault in faults):
            continue
        text = f"{wait_s:.1f} s: event {row['key']} of {row['org_id']} at {message.confirm_t:.1f}{_beside(index, row)}"
        if wait_s > wait_max_s + HAND_OVER_MAX_S * bool(faults):
            index.verdict.add("waited for another's trouble", text)
        if not faults:
            longest.append((wait_s, text))
    worst = heapq.nlargest(WORST_NAMED, longest)
    index.verdict.figures["longest wait of an organisation that no fault was about"] = (
        f"{worst[0][0]:.2f} s" if worst else f"under {LONG_S} s"
    )


def _beside(index: LedgerIndex, row: asyncpg.Record) -> str:
    """The faults that were on, though they were about others."""
    confirm_t = index.messages[row["key"]].confirm_t or 0.0
    others: list[Fault] = index.disturbances(confirm_t, row["wall"] - index.wall_minus_t)
    return "".join(f", beside {' and '.join(fault.kinds)}" for fault in others)
