"""The outbox of the alerts: rows that are written with their cause, and removed when RabbitMQ has confirmed them.

Every function here is one short statement, so that nobody holds a lock while RabbitMQ is waited for. A worker takes
alerts for some seconds, publishes them, and then removes or postpones them. If it dies in between, they can be taken
again when the seconds are over.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from asyncpg import Record

import sql
from schema.alerts import ALERT_SCHEMA_VERSION, DoubleExportDetected, DoubleExportFoundBy
from schema.trace_context import TraceContext
from sql.connection import Connection, transaction

from .query_arguments import AlertKey, PostponedAlert, column_arrays


@dataclass(frozen=True, slots=True)
class TakenAlert:
    """An alert that a worker has taken, and how often one has been taken so far, this time included."""

    alert: DoubleExportDetected
    attempts: int
    trace_context: TraceContext | None
    """The trace of what caused it."""

    @property
    def key(self) -> AlertKey:
        """What names the alert in the outbox."""
        return AlertKey(self.alert.org_id, self.alert.event_id)


@dataclass(frozen=True, slots=True)
class Turn:
    """Some organisations with alerts in the outbox, which come one after the other in the order of their ids."""

    due_org_ids: list[str]
    """Those with an alert that is due."""

    last_org_id: str | None
    """The last of all of them; None where no others come after it."""


async def next_turn(connection: Connection, after_org_id: str, limit: int) -> Turn:
    """The organisations that come after another one: at most so many."""
    rows = await connection.fetch(sql.query("list_alert_organisations"), after_org_id, limit)
    return Turn(
        due_org_ids=[row["org_id"] for row in rows if row["has_due_alert"]],
        last_org_id=rows[-1]["org_id"] if len(rows) == limit else None,
    )


async def take_alerts(connection: Connection, org_ids: Sequence[str], limit: int, taken_s: float) -> list[TakenAlert]:
    """Take the next alerts of organisations for `taken_s` seconds, at most so many of each; returns when committed.

    Where one of them cannot be read, none is taken.
    """
    async with transaction(connection):
        rows = await connection.fetch(sql.query("take_alerts"), org_ids, limit, taken_s)
        return [_taken_alert(row) for row in sorted(rows, key=lambda row: (row["occurred_at"], row["event_id"]))]


def _taken_alert(row: Record) -> TakenAlert:
    alert = DoubleExportDetected(
        event_id=row["event_id"],
        schema_version=ALERT_SCHEMA_VERSION,
        occurred_at=row["occurred_at"],
        org_id=row["org_id"],
        run_id=row["run_id"],
        claim_count=row["claim_count"],
        claim_ids=row["claim_ids"],
        earlier_run_ids=row["earlier_run_ids"],
        found_by=DoubleExportFoundBy(row["found_by"]),
    )
    trace_context = TraceContext(row["traceparent"], row["tracestate"]) if row["traceparent"] else None
    return TakenAlert(alert, row["attempts"], trace_context)


async def remove_alerts(connection: Connection, alerts: Collection[AlertKey]) -> None:
    """Remove alerts that were published; returns after the commit. There must be one."""
    async with transaction(connection):
        await connection.execute(sql.query("remove_alerts"), *column_arrays(alerts))


async def postpone_alerts(connection: Connection, alerts: Collection[PostponedAlert]) -> None:
    """Have alerts wait before they are taken again; returns after the commit. There must be one."""
    async with transaction(connection):
        await connection.execute(sql.query("postpone_alerts"), *column_arrays(alerts))
