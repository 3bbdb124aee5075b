"""What the log and the tables know of runs that are to be imported."""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

import sql
from schema.events import RunCreated, RunFinished
from schema.fields import amount_text
from sql.connection import Connection

from .event_log import EventType
from .event_meaning import is_same_event
from .query_arguments import LoggedPayload, OrganisationClaims, column_arrays, joined

EXPORTS_ELSEWHERE_MAX: Final = 100_000
"""Exports by other runs that are read for some imported runs; those past it are found when the events are stored."""

EXPORTS_AT_ONCE: Final = 2_000
"""Exported claims that are fetched at a time."""


@dataclass(frozen=True, slots=True)
class KnownRuns:
    """Of some runs those that the log has: all of it in the same words, or a part in other words."""

    same: set[UUID] = field(default_factory=set)
    different: set[UUID] = field(default_factory=set)
    exported_elsewhere: dict[tuple[str, str], list[UUID]] = field(default_factory=dict)
    """By organisation and claim, the other runs that exported it."""


async def known_runs(
    connection: Connection,
    runs: Sequence[tuple[RunCreated, RunFinished]],
    claims: Sequence[tuple[str, Collection[str]]],
) -> KnownRuns:
    """Look up runs by the ids of their two events, and claims by organisation. There must be a run."""
    created = [LoggedPayload(run.event_id, run.payload) for run, _ in runs]
    finished = [LoggedPayload(run.event_id, run.payload) for _, run in runs]
    stored = await stored_events(connection, [each.event_id for each in (*created, *finished)])
    others: set[UUID] = set()
    for event_type, model, payloads in (
        (EventType.RUN_CREATED, RunCreated, created),
        (EventType.RUN_FINISHED, RunFinished, finished),
    ):
        for row in await connection.fetch(sql.query("find_reused_event_ids"), *column_arrays(payloads), event_type):
            if row["event_type"] != event_type or not is_same_event(model, row["logged_payload"], row["payload"]):
                others.add(row["event_id"])
    elsewhere: defaultdict[tuple[str, str], list[UUID]] = defaultdict(list)
    searches = [OrganisationClaims(org_id, joined(claim_ids)) for org_id, claim_ids in claims if claim_ids]
    if searches:
        arguments = *column_arrays(searches), [run.run_id for run, _ in runs], EXPORTS_ELSEWHERE_MAX
        for row in await connection.fetch(sql.query("find_other_exports"), *arguments):
            elsewhere[row["org_id"], row["claim_id"]].append(row["run_id"])
    return KnownRuns(
        same={start.run_id for start, end in runs if {start.event_id, end.event_id} <= stored - others},
        different={start.run_id for start, end in runs if {start.event_id, end.event_id} & others},
        exported_elsewhere=dict(elsewhere),
    )


@dataclass(frozen=True, slots=True)
class Export:
    """A claim that is exported: by a run that began in a period or not, and each amount that it came to."""

    claim_id: str
    is_of_period: bool
    amounts: set[str]
    """With their currencies, where both are known."""


async def exports_of_organisation(
    connection: Connection, org_id: str, start: datetime, end: datetime
) -> AsyncIterator[Export]:
    """All exported claims of an organisation in the order of their ids, as the caller's transaction sees them.

    The period begins at `start` and ends before `end`.
    """
    rows = connection.cursor(sql.query("list_exports_of_organisation"), org_id, start, end, prefetch=EXPORTS_AT_ONCE)
    async for row in rows:
        yield Export(row["claim_id"], row["is_of_period"], {_amount_text(text) for text in row["amounts"] or ()})


def _amount_text(text: str) -> str:
    currency, amount = text.split(" ")
    return f"{currency} {amount_text(Decimal(amount))}"


async def stored_events(connection: Connection, event_ids: Collection[UUID]) -> set[UUID]:
    """Those of some events that the log has."""
    rows = await connection.fetch(sql.query("find_logged_events"), list(event_ids))
    return {row["event_id"] for row in rows}
