"""What tests of reservations share: how to reserve, release and finish, and what is stored."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from handlers.errors import RequestRefused
from handlers.reservations import release_claims, reserve_claims
from schema.errors import ErrorCode
from schema.events import RunFinished
from schema.requests import ReleaseClaims, ReserveClaims
from schema.results import ReservedClaims
from sql.connection import Connection
from tests.integration.conftest import until_blocked
from tests.integration.requests import decoded
from tests.storing import store_finished
from tests.wire import run_finished


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database per file, which is emptied before each test."""
    return emptied_url


OVERRIDE = {"reason": "the bank lost it", "approvedBy": "carol"}


async def reserve(connection: Connection, run_id: UUID, *claim_ids: str, **fields: Any) -> ReservedClaims:
    least = {"orgId": "org-1", "runId": run_id, "claimIds": claim_ids}
    return await reserve_claims(connection, decoded(ReserveClaims, **(least | fields)))


async def release(connection: Connection, run_id: UUID, *claim_ids: str, **fields: Any) -> int:
    least = {"orgId": "org-1", "runId": run_id, "claimIds": claim_ids or None}
    return (await release_claims(connection, decoded(ReleaseClaims, **(least | fields)))).released_count


def end_event(run_id: UUID, status: str, *claim_ids: str, **fields: Any) -> RunFinished:
    least = run_finished(runId=str(run_id), status=status, claimIds=claim_ids)
    return decoded(RunFinished, **(least | fields))


async def finish(connection: Connection, run_id: UUID, status: str, *claim_ids: str, **fields: Any) -> None:
    await store_finished(connection, [end_event(run_id, status, *claim_ids, **fields)])


async def expire(connection: Connection, *run_ids: UUID) -> None:
    """Let the leases of these runs expire, or all leases."""
    await connection.execute(
        "UPDATE claim_leases SET expires_at = expires_at - interval '2 days' "
        "WHERE cardinality($1::uuid[]) = 0 OR run_id = ANY ($1)",
        run_ids,
    )


async def holders(connection: Connection) -> dict[str, UUID]:
    """The run that has a lease of each claim, whether it has expired or not."""
    rows = await connection.fetch("SELECT claim_id, run_id FROM claim_leases ORDER BY claim_id")
    return {row["claim_id"]: row["run_id"] for row in rows}


async def stored_rows(connection: Connection) -> list[Any]:
    """Every row that a reservation or an end may change."""
    return [
        await connection.fetch("SELECT * FROM claim_leases ORDER BY org_id, claim_id"),
        await connection.fetch("SELECT * FROM claim_overrides ORDER BY run_id, claim_id, earlier_run_id"),
        await connection.fetch("SELECT * FROM double_exported_claims ORDER BY org_id, claim_id"),
        await connection.fetch("SELECT * FROM repeated_claims ORDER BY org_id, claim_id, run_id"),
        await connection.fetch("SELECT * FROM alerts ORDER BY org_id, event_id"),
        await connection.fetch("SELECT * FROM export_run_events ORDER BY event_id"),
        await connection.fetch("SELECT * FROM export_runs ORDER BY run_id"),
        await connection.fetch("SELECT * FROM export_run_claims ORDER BY run_id, claim_id"),
    ]


async def logged_takings(connection: Connection) -> list[Any]:
    """The log entries about claims that were granted although another run had exported or leased them."""
    rows = await connection.fetch(
        "SELECT payload FROM export_run_events WHERE event_type = 'claims-taken' ORDER BY received_at"
    )
    return [json.loads(row["payload"]) for row in rows]


def conflicts(reserved: ReservedClaims) -> list[tuple[str, str, UUID]]:
    return [(each.claim_id, each.reason.value, each.run_id) for each in reserved.conflicts]


async def refusal(connection: Connection, request: Awaitable[Any]) -> tuple[ErrorCode, list[str]]:
    """The code of a refusal, and the fields it names. Asserts that the request changed nothing."""
    before = await stored_rows(connection)
    with pytest.raises(RequestRefused) as raised:
        await request
    assert await stored_rows(connection) == before
    return raised.value.code, [detail.field for detail in raised.value.details]


@asynccontextmanager
async def check_on_table(connection: Connection, table: str, condition: str) -> AsyncIterator[None]:
    """Have a table refuse rows that do not meet a condition, so that a transaction which writes them fails half way."""
    await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT broken CHECK ({condition}) NOT VALID")
    try:
        yield
    finally:
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT broken")


@asynccontextmanager
async def blocked_request(
    holder: Connection, first: Awaitable[Any], waiter: Connection, second: Awaitable[Any]
) -> AsyncIterator["asyncio.Future[Any]"]:
    """Run `first`, and let `second` wait for its transaction. Commit it, then yield the task of `second`."""
    under_way = holder.transaction()
    await under_way.start()
    await first
    waiting = asyncio.ensure_future(second)
    await until_blocked(holder, waiter)
    await under_way.commit()
    yield waiting
