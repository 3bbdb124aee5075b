"""Which runs are stale, and how their list is paged."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from handlers.stale_runs import list_stale_runs
from schema.errors import ErrorCode
from schema.events import RunCreated
from schema.requests import ListStaleRuns
from schema.results import StaleRuns
from sql.connection import Connection
from tests.integration.requests import decoded, delete
from tests.integration.reservations.conftest import finish, refusal
from tests.storing import store_created
from tests.wire import run_created


async def stale(connection: Connection, **fields: Any) -> StaleRuns:
    defaults = {"olderThanSeconds": 3_600}
    return await list_stale_runs(connection, decoded(ListStaleRuns, **(defaults | fields)))


async def start_run(connection: Connection, minutes_ago: float, **fields: Any) -> UUID:
    """Store a run that started this long ago. Returns its id."""
    at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    event = decoded(RunCreated, **run_created(occurredAt=at.isoformat(), **fields))
    await store_created(connection, [event])
    return event.run_id


async def test_stale_runs_are_pending_and_old_and_the_oldest_is_first(connection: Connection) -> None:
    old, oldest = await start_run(connection, 61), await start_run(connection, 600)
    elsewhere = await start_run(connection, 120, orgId="org-2")
    await start_run(connection, 59)
    for status in ("failed", "partial", "completed"):
        await finish(connection, await start_run(connection, 500), status, f"c-{status}")
    await delete(connection, await start_run(connection, 400))
    assert [run.run_id for run in (await stale(connection)).runs] == [oldest, elsewhere, old]
    assert [run.run_id for run in (await stale(connection, orgId="org-1")).runs] == [oldest, old]
    assert (await stale(connection, olderThanSeconds=36_001)).runs == []


async def test_the_pages_have_every_stale_run_once(connection: Connection) -> None:
    run_ids = [await start_run(connection, 1_000 - number // 2) for number in range(7)]
    seen: list[UUID] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = await stale(connection, limit=3, cursor=cursor)
        seen += [run.run_id for run in page.runs]
        cursor, pages = page.next_cursor, pages + 1
    assert (len(seen), set(seen), pages) == (7, set(run_ids), 3)
    created = [run.created_at for run in (await stale(connection, limit=7)).runs]
    assert created == sorted(created)
    assert (await stale(connection, limit=7)).next_cursor is None


async def test_a_cursor_of_another_list_is_refused(connection: Connection) -> None:
    for _ in range(2):
        await start_run(connection, 100)
    cursor = (await stale(connection, orgId="org-1", limit=1)).next_cursor
    for fields in ({"cursor": cursor}, {"cursor": cursor, "orgId": "org-2"}, {"cursor": "x", "orgId": "org-1"}):
        answer = await refusal(connection, stale(connection, **fields))
        assert answer == (ErrorCode.INVALID_REQUEST, ["cursor"])
    assert len((await stale(connection, orgId="org-1", cursor=cursor)).runs) == 1
