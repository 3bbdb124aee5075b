"""What tests of double exports share: how to make, list and resolve them, and what waits in the outbox."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from asyncpg import Record

from handlers.double_exports import list_double_exports, resolve_double_export
from schema.requests import ListDoubleExports, ResolveDoubleExport
from schema.results import DoubleExport, DoubleExports
from sql.connection import Connection
from tests.integration.requests import decoded
from tests.integration.reservations.conftest import finish


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database per file, empty at the start of each test."""
    return emptied_url


async def list_page(connection: Connection, **fields: Any) -> DoubleExports:
    """One page."""
    least = {"orgId": "org-1"}
    return await list_double_exports(connection, decoded(ListDoubleExports, **(least | fields)))


async def double_exported_runs(connection: Connection, org_id: str = "org-1") -> dict[str, set[UUID]]:
    """The double exports of an organisation: each claim, and its runs."""
    page = await list_page(connection, orgId=org_id, limit=200)
    assert page.next_cursor is None
    for each in page.double_exports:
        assert each.run_count == len(each.runs)
    return {each.claim_id: {run.run_id for run in each.runs} for each in page.double_exports}


async def double_export_of(connection: Connection, claim_id: str = "c-1") -> DoubleExport:
    """The double export of a claim."""
    [one] = [each for each in (await list_page(connection)).double_exports if each.claim_id == claim_id]
    return one


async def resolve(connection: Connection, claim_id: str, **fields: Any) -> DoubleExport:
    """Resolve a double export, as bob does."""
    least = {"orgId": "org-1", "claimId": claim_id, "resolvedBy": "bob", "note": "money came back"}
    return await resolve_double_export(connection, decoded(ResolveDoubleExport, **(least | fields)))


async def make_double_exports(connection: Connection, count: int, **fields: Any) -> list[str]:
    """So many double exports; their claims, in their order."""
    claim_ids = sorted(f"made-{uuid4()}" for _ in range(count))
    for _ in range(2):
        await finish(connection, uuid4(), "completed", *claim_ids, **fields)
    return claim_ids


async def alerts(connection: Connection, org_id: str = "org-1") -> list[Record]:
    """What waits in the outbox, in the order in which it was put there."""
    return await connection.fetch("SELECT * FROM alerts WHERE org_id = $1 ORDER BY occurred_at, event_id", org_id)


async def log_entries(connection: Connection, event_type: str) -> list[tuple[Record, Any]]:
    """The entries of the log of one type, with their payloads."""
    rows = await connection.fetch(
        "SELECT run_id, org_id, origin, payload FROM export_run_events WHERE event_type = $1 ORDER BY received_at",
        event_type,
    )
    return [(row, json.loads(row["payload"])) for row in rows]
