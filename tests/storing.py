"""Stores events as a worker does: each batch in a transaction of its own."""

import json
from collections.abc import Sequence
from typing import Any

from handlers.events import merge_created, merge_finished
from schema.decoding import decode
from schema.events import RunCreated, RunFinished
from sql.connection import Connection, transaction
from tests.wire import run_created, run_finished


def created_event(**fields: Any) -> RunCreated:
    """A valid run-created with these fields, decoded."""
    return decode(RunCreated, json.dumps(run_created(**fields)).encode())


def finished_event(**fields: Any) -> RunFinished:
    """A valid run-finished with these fields, decoded."""
    return decode(RunFinished, json.dumps(run_finished(**fields)).encode())


UNPUBLISHED_ALERT = """
INSERT INTO alerts (
    event_id, org_id, run_id, claim_count, claim_ids, earlier_run_ids, found_by, occurred_at, next_attempt_at
) VALUES (gen_random_uuid(), 'o', gen_random_uuid(), 1, '{c}', '{}', 'another-run', now(), now() + interval '1 hour')
"""
"""An alert that is due in an hour."""


async def store_created(connection: Connection, events: Sequence[RunCreated]) -> None:
    """Store a batch of run-created events. If it raises EventRefused, none of them is stored."""
    async with transaction(connection):
        await merge_created(connection, events)


async def store_finished(connection: Connection, events: Sequence[RunFinished]) -> None:
    """Store a batch of run-finished events. If it raises EventRefused, none of them is stored."""
    async with transaction(connection):
        await merge_finished(connection, events)
