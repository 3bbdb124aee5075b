"""The pages of an organisation's history show each run once, newest first, even while new runs arrive."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from handlers.errors import RequestRefused
from handlers.history import get_export_history
from handlers.writes import delete_export_run
from schema.decoding import decode
from schema.errors import ErrorCode
from schema.events import RunCreated, RunFinished
from schema.requests import DeleteExportRun, GetExportHistory
from schema.results import ExportHistory
from sql.connection import Connection
from tests.storing import created_event, finished_event, store_created, store_finished
from tests.wire import run_created, run_finished

START = datetime(2026, 1, 1, tzinfo=UTC)


async def add(
    connection: Connection, minutes: Sequence[float], *, times: Sequence[str] = (), **fields: Any
) -> list[UUID]:
    """Add a run for each of these minutes after START, then one for each of these times. Returns their ids."""
    events = [
        decode(RunCreated, json.dumps(run_created(**{"occurredAt": each, **fields})).encode())
        for each in [*map(at, minutes), *times]
    ]
    await store_created(connection, events)
    return [event.run_id for event in events]


def at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat()


async def ask(connection: Connection, **fields: Any) -> ExportHistory:
    request = decode(GetExportHistory, json.dumps({"orgId": "org-1", **fields}).encode())
    return await get_export_history(connection, request)


async def listed_ids(connection: Connection, **fields: Any) -> list[UUID]:
    """The run ids on a page that has them all. Asserts that its total is their number."""
    page = await ask(connection, **fields)
    assert page.total == len(page.runs)
    return [run.run_id for run in page.runs]


@pytest.mark.parametrize("limit", [1, 7, 10, 59, 60, 61])
async def test_the_pages_have_every_run_once(connection: Connection, limit: int) -> None:
    """There are sixty runs, six of each time, so that pages end between runs of the same time."""
    minutes = [number // 6 for number in range(60)]
    ids = await add(connection, minutes)
    await add(connection, minutes, orgId="org-2")
    expected = sorted(zip(minutes, ids, strict=True), reverse=True)
    run_ids: list[UUID] = []
    cursor = None
    while True:
        page = await ask(connection, limit=limit, cursor=cursor)
        assert page.total == 60 + len(run_ids) // limit
        run_ids += [run.run_id for run in page.runs]
        if page.next_cursor is None:
            break
        assert len(page.runs) == limit
        cursor = page.next_cursor
        await add(connection, [100])
    assert run_ids == [run_id for _, run_id in expected]


async def test_runs_of_more_than_a_day_ahead_come_last_and_are_marked(connection: Connection) -> None:
    """By cursor and by offset, for every size of a page."""
    now = datetime.now(UTC)
    days = [-2, -1, 0.5, 0.99, 1.01, 2, 30_000]
    times = [(now + timedelta(days=each)).isoformat() for each in days]
    past_ids = [(await add(connection, [], times=[time]))[0] for time in times[:4]]
    future_ids = [(await add(connection, [], times=[time]))[0] for time in times[4:]]
    expected = [*reversed(past_ids), *reversed(future_ids)]
    for limit in range(1, 9):
        run_ids: list[UUID] = []
        cursor = None
        while True:
            page = await ask(connection, limit=limit, cursor=cursor)
            assert page.total == 7
            assert all(run.has_future_time == (run.run_id in future_ids) for run in page.runs)
            run_ids += [run.run_id for run in page.runs]
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.runs) == limit
        assert run_ids == expected
        for offset in range(9):
            page = await ask(connection, limit=limit, offset=offset)
            assert [run.run_id for run in page.runs] == expected[offset : offset + limit]
            assert (page.next_cursor is not None) == (offset + limit < 7)


async def test_filters_by_time_find_runs_in_the_future(connection: Connection) -> None:
    now = datetime.now(UTC)
    past, near, far = [
        (await add(connection, [], times=[(now + timedelta(days=days)).isoformat()]))[0] for days in (-1, 3, 300)
    ]
    assert await listed_ids(connection, createdTo=(now + timedelta(days=4)).isoformat()) == [past, near]
    assert await listed_ids(connection, createdFrom=(now + timedelta(days=1.5)).isoformat()) == [far, near]
    assert await listed_ids(connection, createdTo=now.isoformat()) == [past]
    assert await listed_ids(connection, targetSystem="erp") == []


async def test_pages_keep_the_order_of_the_first_one(connection: Connection) -> None:
    """A run whose time comes between two pages is on one page, and on one only."""
    now = datetime.now(UTC)
    [old] = await add(connection, [0])
    [ahead] = await add(connection, [], times=[(now + timedelta(days=1, seconds=1)).isoformat()])
    page = await ask(connection, limit=1)
    assert [run.run_id for run in page.runs] == [old]
    await asyncio.sleep(1.2)
    assert [run.run_id for run in (await ask(connection, limit=1)).runs] == [ahead]
    rest = await ask(connection, limit=1, cursor=page.next_cursor)
    assert ([run.run_id for run in rest.runs], rest.next_cursor) == ([ahead], None)


async def test_a_run_that_ended_in_the_future_is_marked(connection: Connection) -> None:
    """Its place in the order does not change."""
    [run_id] = await add(connection, [0])
    ahead = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    finished = run_finished(runId=str(run_id), occurredAt=ahead)
    await store_finished(connection, [decode(RunFinished, json.dumps(finished).encode())])
    [newer] = await add(connection, [1])
    runs = (await ask(connection)).runs
    assert [(run.run_id, run.has_future_time) for run in runs] == [(newer, False), (run_id, True)]


async def test_a_run_that_arrives_late_appears_in_its_place(connection: Connection) -> None:
    newest, oldest = await add(connection, [3, 1])
    page = await ask(connection, limit=1)
    [between, _] = await add(connection, [2, 4])
    rest = await ask(connection, limit=5, cursor=page.next_cursor)
    assert [run.run_id for run in (*page.runs, *rest.runs)] == [newest, between, oldest]


async def test_pages_by_offset_have_every_run_once(connection: Connection) -> None:
    ids = await add(connection, range(10))
    pages = [await ask(connection, limit=4, offset=offset) for offset in (0, 4, 8, 10, 100_000)]
    pages_of_ids = [[run.run_id for run in page.runs] for page in pages]
    newest_first = ids[::-1]
    assert pages_of_ids == [newest_first[:4], newest_first[4:8], newest_first[8:], [], []]
    assert [page.total for page in pages] == [10] * 5
    assert [page.next_cursor is None for page in pages] == [False, False, True, True, True]
    further = await ask(connection, cursor=pages[0].next_cursor)
    assert [run.run_id for run in further.runs] == newest_first[4:]


async def test_a_page_has_the_fields_of_a_run(connection: Connection) -> None:
    [run_id] = await add(connection, [0], targetSystem="ledger")
    finished = run_finished(runId=str(run_id), status="partial", claimIds=["c-1", "c-2"], occurredAt=at(5))
    await store_finished(connection, [decode(RunFinished, json.dumps(finished).encode())])
    [run] = (await ask(connection)).model_dump(mode="json")["runs"]
    assert run["runId"] == str(run_id)
    assert (run["status"], run["targetSystem"], run["claimCount"]) == ("partial", "ledger", 2)
    assert (run["createdAt"], run["finishedAt"]) == ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z")
    assert "claimIds" not in run


async def test_the_filter_by_status_finds_the_runs_with_it(connection: Connection) -> None:
    runs = dict(zip(("pending", "failed", "partial", "completed"), await add(connection, range(4)), strict=True))
    for status, run_id in runs.items():
        if status != "pending":
            finished = run_finished(runId=str(run_id), status=status)
            await store_finished(connection, [decode(RunFinished, json.dumps(finished).encode())])
    assert {status: await listed_ids(connection, status=status) for status in runs} == {
        status: [run_id] for status, run_id in runs.items()
    }


async def test_the_filter_by_target_system_finds_the_runs_with_it(connection: Connection) -> None:
    [ledger] = await add(connection, [1], targetSystem="ledger")
    [other] = await add(connection, [2], targetSystem="other")
    [none] = await add(connection, [3])
    assert await listed_ids(connection, targetSystem="ledger") == [ledger]
    assert await listed_ids(connection, targetSystem="nothing") == []
    assert await listed_ids(connection) == [none, other, ledger]


@pytest.mark.parametrize(
    ("name", "value"), [("format", "xml"), ("triggeredBy", "bob"), ("scope", "chapter 7"), ("trigger", "api")]
)
async def test_filter_by_what_the_start_of_a_run_says(connection: Connection, name: str, value: str) -> None:
    [wanted] = await add(connection, [1], **{name: value})
    await add(connection, [2])
    assert await listed_ids(connection, **{name: value}) == [wanted]
    assert await listed_ids(connection, **{name: value}, orgId="org-2") == []
    if name != "trigger":
        assert await listed_ids(connection, **{name: value.upper()}) == []


async def test_filter_by_the_acknowledgement_of_the_accounting_system(connection: Connection) -> None:
    ids = await add(connection, range(3))
    for run_id, ack_id in zip(ids[:2], ("ledger-1", "ledger-2"), strict=True):
        await store_finished(connection, [finished_event(runId=str(run_id), externalAckId=ack_id)])
    assert await listed_ids(connection, externalAckId="ledger-1") == [ids[0]]
    assert await listed_ids(connection, externalAckId="ledger") == []


async def test_filter_by_conflict(connection: Connection) -> None:
    agreed, disagreed = await add(connection, range(2))
    await store_created(connection, [created_event(runId=str(disagreed), triggeredBy="mallory")])
    assert await listed_ids(connection, hasConflict=True) == [disagreed]
    assert await listed_ids(connection, hasConflict=False) == [agreed]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        pytest.param({"periodFrom": "2026-01-31"}, [3, 2, 1, 0], id="from is inclusive"),
        pytest.param({"periodFrom": "2026-02-01"}, [3, 1], id="from the next day"),
        pytest.param({"periodTo": "2026-02-01"}, [3, 2, 1, 0], id="to is inclusive"),
        pytest.param({"periodTo": "2026-01-31"}, [2, 0], id="to the day before"),
        pytest.param({"periodFrom": "2026-01-10", "periodTo": "2026-01-10"}, [2, 0], id="one day"),
        pytest.param({"periodFrom": "2027-01-01", "periodTo": "2027-12-31"}, [3], id="past all that end"),
        pytest.param({"periodFrom": "2020-01-01", "periodTo": "2020-12-31"}, [2], id="before all that start"),
    ],
)
async def test_filter_by_period(connection: Connection, bounds: dict[str, str], expected: list[int]) -> None:
    """Runs of January and of February, one up to the end of January, one from February on, one without a period."""
    periods = [("2026-01-01", "2026-01-31"), ("2026-02-01", "2026-02-28"), (None, "2026-01-31"), ("2026-02-01", None)]
    ids = [
        (await add(connection, [number], periodStart=start, periodEnd=end))[0]
        for number, (start, end) in enumerate([*periods, (None, None)])
    ]
    assert await listed_ids(connection, **bounds) == [ids[number] for number in expected]


async def test_a_cursor_belongs_to_its_filters(connection: Connection) -> None:
    await add(connection, range(3))
    cursor = (await ask(connection, limit=1)).next_cursor
    for filters in (
        {"format": "csv"},
        {"hasConflict": False},
        {"scope": "chapter 7"},
        {"trigger": "api"},
        {"periodTo": "2026-01-01"},
    ):
        with pytest.raises(RequestRefused) as refused:
            await ask(connection, cursor=cursor, **filters)
        assert [detail.field for detail in refused.value.details] == ["cursor"]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        pytest.param({"createdFrom": at(1)}, [3, 2, 1], id="from is inclusive"),
        pytest.param({"createdTo": at(2)}, [2, 1, 0], id="to is inclusive"),
        pytest.param({"createdFrom": at(1), "createdTo": at(2)}, [2, 1], id="both"),
        pytest.param({"createdFrom": at(2), "createdTo": at(2)}, [2], id="one moment"),
        pytest.param({"createdFrom": at(2.001), "createdTo": at(2.999)}, [], id="between two runs"),
        pytest.param({"createdFrom": "2026-01-01T02:02:00+02:00"}, [3, 2], id="another zone"),
    ],
)
async def test_the_filter_by_time_includes_both_bounds(
    connection: Connection, bounds: dict[str, str], expected: list[int]
) -> None:
    ids = await add(connection, range(4))
    assert await listed_ids(connection, **bounds) == [ids[number] for number in expected]


async def test_filters_hold_on_every_page(connection: Connection) -> None:
    ids = await add(connection, range(10), targetSystem="ledger")
    await add(connection, [each + 0.5 for each in range(10)])
    filters = {"createdFrom": at(2), "createdTo": at(7), "targetSystem": "ledger", "status": "pending"}
    first = await ask(connection, limit=4, **filters)
    second = await ask(connection, limit=4, cursor=first.next_cursor, **filters)
    assert [run.run_id for run in (*first.runs, *second.runs)] == ids[7:1:-1]
    assert (first.total, second.total, second.next_cursor) == (6, 6, None)


async def test_runs_with_the_earliest_and_the_latest_possible_time_are_listed(connection: Connection) -> None:
    [early] = await add(connection, [0], occurredAt="0001-01-02T00:00:00Z")
    [late] = await add(connection, [0], occurredAt="9999-12-30T00:00:00Z")
    page = await ask(connection, limit=1)
    rest = await ask(connection, limit=1, cursor=page.next_cursor)
    assert [run.run_id for run in (*page.runs, *rest.runs)] == [early, late]


async def test_deleted_runs_are_listed_on_request_only(connection: Connection) -> None:
    kept, deleted = await add(connection, [2, 1])
    delete = {"runId": str(deleted), "deletedBy": "bob", "reason": "a test"}
    await delete_export_run(connection, decode(DeleteExportRun, json.dumps(delete).encode()))
    assert await listed_ids(connection) == [kept]
    assert await listed_ids(connection, includeDeleted=False) == [kept]
    assert await listed_ids(connection, includeDeleted=True) == [kept, deleted]
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


FILTERS: dict[str, object] = {
    "status": "failed",
    "targetSystem": "none",
    "format": "none",
    "triggeredBy": "nobody",
    "externalAckId": "none",
    "scope": "none",
    "trigger": "manual",
    "hasConflict": True,
    "periodFrom": "2030-01-01",
    "periodTo": "2020-01-01",
    "createdFrom": "2030-01-01T00:00:00Z",
}
"""Filters that let nothing through, so that all runs are looked at."""


async def read_rows(connection: Connection) -> int:
    """How many rows of the runs this transaction has read."""
    rows: int = await connection.fetchval(
        "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'export_runs'"
    )
    return rows


async def test_whatever_the_filter_each_run_is_read_once_for_the_page_and_once_for_the_total(
    connection: Connection,
) -> None:
    """The time is measured by a row of the benchmarks."""
    runs = 10_000
    await connection.execute(
        "INSERT INTO export_runs (run_id, org_id, created_at, period_start, period_end, override_reason) "
        "SELECT gen_random_uuid(), 'org-1', '2026-01-01Z'::timestamptz + n * interval '1 minute', "
        "'2026-01-01', '2026-01-31', repeat('a reason ', 20) FROM generate_series(1, $1) AS n",
        runs,
    )
    rows_read: dict[str, int] = {}
    async with connection.transaction():  # the numbers of one transaction only grow
        before = await read_rows(connection)
        for name, value in FILTERS.items():
            assert (await ask(connection, **{name: value})).total == 0
            after = await read_rows(connection)
            rows_read[name] = after - before
            before = after
    assert {name: rows for name, rows in rows_read.items() if rows > 2 * runs} == {}
    assert rows_read["status"] == 2 * runs


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
