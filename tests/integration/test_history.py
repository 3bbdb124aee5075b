"""Paging through an organisation's runs: newest first, each once, whatever arrives meanwhile."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from handlers.connection import Connection
from handlers.errors import RequestRefused
from handlers.events import store_created, store_finished
from handlers.history import get_export_history
from handlers.writes import delete_export_run
from schema.decoding import decode
from schema.errors import ErrorCode
from schema.events import RunCreated, RunFinished
from schema.requests import DeleteExportRun, GetExportHistory
from schema.results import ExportHistory
from tests.wire import run_created, run_finished

START = datetime(2026, 1, 1, tzinfo=UTC)


async def add(connection: Connection, minutes: Sequence[float], **fields: Any) -> list[UUID]:
    """Add a run for each of these times after the start; returns their ids."""
    events = [
        decode(RunCreated, json.dumps(run_created(**{"occurredAt": at(each), **fields})).encode()) for each in minutes
    ]
    await store_created(connection, events)
    return [event.run_id for event in events]


def at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat()


async def ask(connection: Connection, **fields: Any) -> ExportHistory:
    request = decode(GetExportHistory, json.dumps({"orgId": "org-1", **fields}).encode())
    return await get_export_history(connection, request)


async def found(connection: Connection, **fields: Any) -> list[UUID]:
    """The ids on one page, whose total must be their number."""
    page = await ask(connection, **fields)
    assert page.total == len(page.runs)
    return [run.run_id for run in page.runs]


@pytest.mark.parametrize("limit", [1, 7, 10, 59, 60, 61])
async def test_walking_the_pages_meets_every_run_once(connection: Connection, limit: int) -> None:
    """Sixty runs, six at each time, so that pages end between runs of one time."""
    minutes = [number // 6 for number in range(60)]
    ids = await add(connection, minutes)
    await add(connection, minutes, orgId="org-2")
    expected = sorted(zip(minutes, ids, strict=True), reverse=True)
    walked: list[UUID] = []
    cursor = None
    while True:
        page = await ask(connection, limit=limit, cursor=cursor)
        assert page.total == 60 + len(walked) // limit
        walked += [run.run_id for run in page.runs]
        if page.next_cursor is None:
            break
        assert len(page.runs) == limit
        cursor = page.next_cursor
        await add(connection, [100])
    assert walked == [run_id for _, run_id in expected]


async def test_a_run_that_arrives_late_appears_in_its_place(connection: Connection) -> None:
    newest, oldest = await add(connection, [3, 1])
    page = await ask(connection, limit=1)
    [between, _] = await add(connection, [2, 4])
    rest = await ask(connection, limit=5, cursor=page.next_cursor)
    assert [run.run_id for run in (*page.runs, *rest.runs)] == [newest, between, oldest]


async def test_pages_by_offset(connection: Connection) -> None:
    ids = await add(connection, range(10))
    pages = [await ask(connection, limit=4, offset=offset) for offset in (0, 4, 8, 10, 100_000)]
    walked = [[run.run_id for run in page.runs] for page in pages]
    newest_first = ids[::-1]
    assert walked == [newest_first[:4], newest_first[4:8], newest_first[8:], [], []]
    assert [page.total for page in pages] == [10] * 5
    assert [page.next_cursor is None for page in pages] == [False, False, True, True, True]
    further = await ask(connection, cursor=pages[0].next_cursor)
    assert [run.run_id for run in further.runs] == newest_first[4:]


async def test_a_page_says_what_is_known_of_a_run(connection: Connection) -> None:
    [run_id] = await add(connection, [0], targetSystem="ledger")
    finished = run_finished(runId=str(run_id), status="partial", claimIds=["c-1", "c-2"], occurredAt=at(5))
    await store_finished(connection, [decode(RunFinished, json.dumps(finished).encode())])
    [run] = (await ask(connection)).model_dump(mode="json")["runs"]
    assert run["runId"] == str(run_id)
    assert (run["status"], run["targetSystem"], run["claimCount"]) == ("partial", "ledger", 2)
    assert (run["createdAt"], run["finishedAt"]) == ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z")
    assert "claimIds" not in run


async def test_filter_by_status(connection: Connection) -> None:
    runs = dict(zip(("pending", "failed", "partial", "completed"), await add(connection, range(4)), strict=True))
    for status, run_id in runs.items():
        if status != "pending":
            finished = run_finished(runId=str(run_id), status=status)
            await store_finished(connection, [decode(RunFinished, json.dumps(finished).encode())])
    assert {status: await found(connection, status=status) for status in runs} == {
        status: [run_id] for status, run_id in runs.items()
    }


async def test_filter_by_target_system(connection: Connection) -> None:
    [ledger] = await add(connection, [1], targetSystem="ledger")
    [other] = await add(connection, [2], targetSystem="other")
    [none] = await add(connection, [3])
    assert await found(connection, targetSystem="ledger") == [ledger]
    assert await found(connection, targetSystem="nothing") == []
    assert await found(connection) == [none, other, ledger]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        pytest.param({"createdFrom": at(1)}, [3, 2, 1], id="from is inclusive"),
        pytest.param({"createdTo": at(2)}, [2, 1, 0], id="to is inclusive"),
        pytest.param({"createdFrom": at(1), "createdTo": at(2)}, [2, 1], id="both"),
        pytest.param({"createdFrom": at(2), "createdTo": at(2)}, [2], id="one moment"),
        pytest.param({"createdFrom": at(2.001), "createdTo": at(2.999)}, [], id="between two runs"),
        pytest.param({"createdFrom": at(3), "createdTo": at(0)}, [], id="backwards"),
        pytest.param({"createdFrom": "2026-01-01T02:02:00+02:00"}, [3, 2], id="another zone"),
    ],
)
async def test_filter_by_time(connection: Connection, bounds: dict[str, str], expected: list[int]) -> None:
    ids = await add(connection, range(4))
    assert await found(connection, **bounds) == [ids[number] for number in expected]


async def test_filters_hold_on_every_page(connection: Connection) -> None:
    ids = await add(connection, range(10), targetSystem="ledger")
    await add(connection, [each + 0.5 for each in range(10)])
    filters = {"createdFrom": at(2), "createdTo": at(7), "targetSystem": "ledger", "status": "pending"}
    first = await ask(connection, limit=4, **filters)
    second = await ask(connection, limit=4, cursor=first.next_cursor, **filters)
    assert [run.run_id for run in (*first.runs, *second.runs)] == ids[7:1:-1]
    assert (first.total, second.total, second.next_cursor) == (6, 6, None)


async def test_the_earliest_and_the_latest_time_there_are(connection: Connection) -> None:
    [early] = await add(connection, [0], occurredAt="0001-01-02T00:00:00Z")
    [late] = await add(connection, [0], occurredAt="9999-12-30T00:00:00Z")
    page = await ask(connection, limit=1)
    rest = await ask(connection, limit=1, cursor=page.next_cursor)
    assert [run.run_id for run in (*page.runs, *rest.runs)] == [late, early]


async def test_deleted_runs_show_only_when_asked_for(connection: Connection) -> None:
    kept, deleted = await add(connection, [2, 1])
    delete = {"runId": str(deleted), "deletedBy": "bob", "reason": "a test"}
    await delete_export_run(connection, decode(DeleteExportRun, json.dumps(delete).encode()))
    assert await found(connection) == [kept]
    assert await found(connection, includeDeleted=False) == [kept]
    assert await found(connection, includeDeleted=True) == [kept, deleted]
    shown = (await ask(connection, includeDeleted=True)).runs[1]
    assert shown.deleted_by == "bob"
    assert shown.deleted_at is not None


async def test_the_total_is_exact_up_to_10_000(connection: Connection) -> None:
    await connection.execute(
        "INSERT INTO export_runs (run_id, org_id, created_at) "
        "SELECT gen_random_uuid(), 'org-1', now() FROM generate_series(1, 10000)"
    )
    page = await ask(connection, limit=1)
    assert page.total == 10_000
    await add(connection, [0])
    assert (await ask(connection, limit=1)).total is None
    assert (await ask(connection, limit=1, cursor=page.next_cursor)).total is None
    assert (await ask(connection, createdTo=at(0))).total == 1


async def test_an_unknown_organisation_has_an_empty_history(connection: Connection) -> None:
    await add(connection, [0])
    assert await ask(connection, orgId="org-2") == ExportHistory(runs=[], next_cursor=None, total=0)


async def test_the_cursor_of_another_organisation_is_refused(connection: Connection) -> None:
    await add(connection, [1, 2])
    await add(connection, [1, 2], orgId="org-2")
    cursor = (await ask(connection, limit=1)).next_cursor
    with pytest.raises(RequestRefused) as refused:
        await ask(connection, orgId="org-2", cursor=cursor)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
