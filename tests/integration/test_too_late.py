"""A write whose caller no longer waits is not committed, even if it is nearly done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from handlers.double_exports import resolve_double_export
from handlers.reservations import release_claims, reserve_claims
from handlers.reversals import reverse_export
from handlers.writes import create_export_run, delete_export_run, update_export_run_status
from schema.events import RunStatus
from schema.fields import WireModel
from schema.requests import (
    CreateExportRun,
    DeleteExportRun,
    ReleaseClaims,
    ReserveClaims,
    ResolveDoubleExport,
    ReverseExport,
    UpdateExportRunStatus,
)
from sql.connection import Connection, TooLate, transaction
from tests.integration.reservations.conftest import end_event
from tests.storing import store_finished

RUN = UUID(int=1)
OTHER_RUN = UUID(int=2)
EXPORTING_RUN = UUID(int=3)

CREATE = CreateExportRun(org_id="org-1", run_id=RUN, triggered_by="alice", format="csv").with_payload("{}")
WRITES: dict[str, tuple[Callable[..., Awaitable[Any]], WireModel]] = {
    "create": (create_export_run, CREATE.model_copy(update={"run_id": uuid4()})),
    "update": (
        update_export_run_status,
        UpdateExportRunStatus(run_id=RUN, status=RunStatus.COMPLETED, claim_ids=["c-1"]),
    ),
    "delete": (delete_export_run, DeleteExportRun(run_id=RUN, deleted_by="bob", reason="a test")),
    "reserve": (reserve_claims, ReserveClaims(org_id="org-1", run_id=RUN, claim_ids=["c-1"])),
    "release": (release_claims, ReleaseClaims(org_id="org-1", run_id=OTHER_RUN)),
    "resolve": (
        resolve_double_export,
        ResolveDoubleExport(org_id="org-1", claim_id="c-1", resolved_by="bob", note="paid back"),
    ),
    "reverse": (
        reverse_export,
        ReverseExport(org_id="org-1", run_id=EXPORTING_RUN, reason="a test", reversed_by="bob", approved_by="carol"),
    ),
}


async def stored(connection: Connection) -> list[str]:
    """Everything that a write may change."""
    tables = (
        "export_run_events",
        "export_runs",
        "export_run_claims",
        "claim_leases",
        "double_exported_claims",
        "export_reversals",
        "claim_reversals",
    )
    return [str(await connection.fetch(f"SELECT * FROM {table}")) for table in tables]  # noqa: S608


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_that_is_too_late_stores_nothing(connection: Connection, write: str) -> None:
    """The same write in time stores something."""
    await create_export_run(connection, CREATE)
    await create_export_run(connection, CREATE.model_copy(update={"run_id": OTHER_RUN}))
    await reserve_claims(connection, ReserveClaims(org_id="org-1", run_id=OTHER_RUN, claim_ids=["c-2"]))
    await connection.execute(
        "INSERT INTO double_exported_claims (org_id, claim_id, detected_at, last_joined_at) "
        "VALUES ('org-1', 'c-1', now(), now())"
    )
    await store_finished(connection, [end_event(EXPORTING_RUN, "completed", "c-3")])
    before = await stored(connection)
    handle, model = WRITES[write]
    request = model.with_payload("{}")
    now_s = asyncio.get_running_loop().time()
    with pytest.raises(TooLate):
        await handle(connection, request, now_s)
    assert await stored(connection) == before
    await handle(connection, request, now_s + 60)
    assert await stored(connection) != before


async def test_the_time_is_checked_at_the_end_of_the_transaction(connection: Connection) -> None:
    """At its beginning would be too early: the transaction may wait for a lock."""

    async def insert_slowly() -> None:
        async with transaction(connection, asyncio.get_running_loop().time() + 0.2):
            await connection.execute("INSERT INTO export_run_claims VALUES ('c-1', 'org-1', $1, 'exported')", RUN)
            await asyncio.sleep(0.3)

    with pytest.raises(TooLate):
        await insert_slowly()
    assert not await connection.fetchval("SELECT count(*) FROM export_run_claims")
