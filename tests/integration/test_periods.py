"""Which runs may have exported something of a period: the question before an export."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from handlers.periods import check_period
from handlers.purge import purge_run
from handlers.writes import delete_export_run
from schema.decoding import InvalidBody, decode
from schema.limits import PERIOD_RUNS_MAX
from schema.requests import CheckPeriod, DeleteExportRun
from schema.results import PeriodRuns
from sql.connection import Connection
from tests.storing import created_event, finished_event, store_created, store_finished

JANUARY = {"periodStart": "2026-01-01", "periodEnd": "2026-01-31"}


async def add(connection: Connection, status: str = "pending", **fields: Any) -> UUID:
    """Add a run of January, or of another period."""
    event = created_event(**{**JANUARY, **fields})
    await store_created(connection, [event])
    if status != "pending":
        end = finished_event(runId=str(event.run_id), orgId=event.org_id, status=status, claimIds=[str(uuid4())])
        await store_finished(connection, [end])
    return event.run_id


async def ask(connection: Connection, **fields: Any) -> PeriodRuns:
    request = decode(CheckPeriod, json.dumps({"orgId": "org-1", **JANUARY, **fields}).encode())
    return await check_period(connection, request)


async def found(connection: Connection, **fields: Any) -> list[UUID]:
    return [run.run_id for run in (await ask(connection, **fields)).runs]


@pytest.mark.parametrize(
    ("period", "overlap"),
    [
        pytest.param(("2026-01-01", "2026-01-31"), ("2026-01-01", "2026-01-31"), id="the same"),
        pytest.param(("2025-12-01", "2025-12-31"), None, id="the day before the first"),
        pytest.param(("2025-12-01", "2026-01-01"), ("2026-01-01", "2026-01-01"), id="the first day"),
        pytest.param(("2026-01-31", "2026-02-28"), ("2026-01-31", "2026-01-31"), id="the last day"),
        pytest.param(("2026-02-01", "2026-02-28"), None, id="the day after the last"),
        pytest.param(("2026-01-10", "2026-01-10"), ("2026-01-10", "2026-01-10"), id="one day inside"),
        pytest.param(("2025-01-01", "2027-01-01"), ("2026-01-01", "2026-01-31"), id="around it"),
        pytest.param((None, "2025-12-31"), None, id="open at its start, and over before"),
        pytest.param((None, "2026-01-05"), ("2026-01-01", "2026-01-05"), id="open at its start"),
        pytest.param(("2026-01-20", None), ("2026-01-20", "2026-01-31"), id="open at its end"),
        pytest.param(("2026-02-01", None), None, id="open at its end, and later"),
        pytest.param(("0001-01-01", "9999-12-31"), ("2026-01-01", "2026-01-31"), id="all days there are"),
        pytest.param((None, None), None, id="no period"),
    ],
)
async def test_a_run_is_found_by_a_day_in_common(
    connection: Connection, period: tuple[str | None, str | None], overlap: tuple[str, str] | None
) -> None:
    run_id = await add(connection, periodStart=period[0], periodEnd=period[1])
    runs = (await ask(connection)).runs
    expected = [] if overlap is None else [(run_id, *map(date.fromisoformat, overlap))]
    assert [(run.run_id, run.overlap_start, run.overlap_end) for run in runs] == expected


async def test_runs_that_failed_are_left_out(connection: Connection) -> None:
    runs = {status: await add(connection, status) for status in ("pending", "partial", "completed", "failed")}
    expected = {runs[status] for status in ("pending", "partial", "completed")}
    assert set(await found(connection)) == expected


async def test_a_deleted_run_is_listed_and_marked(connection: Connection) -> None:
    run_id = await add(connection, "completed")
    delete = {"runId": str(run_id), "deletedBy": "bob", "reason": "a test"}
    await delete_export_run(connection, decode(DeleteExportRun, json.dumps(delete).encode()))
    [run] = (await ask(connection)).runs
    assert (run.run_id, run.deleted_by, run.deleted_at is not None) == (run_id, "bob", True)


async def test_a_purged_run_is_not_listed(connection: Connection) -> None:
    run_id = await add(connection, "completed")
    assert await purge_run(connection, run_id, "bob")
    assert await found(connection) == []


async def test_a_run_is_listed_when_its_start_comes_after_its_end(connection: Connection) -> None:
    event = created_event(**JANUARY)
    await store_finished(connection, [finished_event(runId=str(event.run_id), status="completed")])
    assert await found(connection) == []
    await store_created(connection, [event])
    assert await found(connection) == [event.run_id]


async def test_other_organisations_and_other_systems_are_left_out(connection: Connection) -> None:
    ledger = await add(connection, targetSystem="ledger", occurredAt="2026-02-01T00:00:00Z")
    none = await add(connection, occurredAt="2026-02-01T00:00:01Z")
    await add(connection, orgId="org-2")
    assert await found(connection) == [none, ledger]
    assert await found(connection, targetSystem="ledger") == [ledger]
    assert await found(connection, targetSystem="other") == []


async def test_runs_of_other_scopes_are_left_out(connection: Connection) -> None:
    seven = await add(connection, scope="chapter 7", occurredAt="2026-02-01T00:00:00Z")
    eight = await add(connection, scope="chapter 8", occurredAt="2026-02-01T00:00:01Z", targetSystem="ledger")
    none = await add(connection, occurredAt="2026-02-01T00:00:02Z")
    assert await found(connection) == [none, eight, seven]
    assert await found(connection, scope="chapter 7") == [seven]
    assert await found(connection, scope="chapter 8", targetSystem="ledger") == [eight]
    assert await found(connection, scope="chapter 7", targetSystem="ledger") == []


async def test_the_newest_runs_come_first_and_those_ahead_come_last(connection: Connection) -> None:
    start = datetime.now(UTC)
    days = (-2, 0, 0.9, 3, 300)
    ids = [await add(connection, occurredAt=(start + timedelta(days=each)).isoformat()) for each in days]
    old, now, near, far, farthest = ids
    assert await found(connection) == [near, now, old, farthest, far]


@pytest.mark.parametrize("runs", [PERIOD_RUNS_MAX, PERIOD_RUNS_MAX + 1])
async def test_at_most_200_runs_are_listed(connection: Connection, runs: int) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    events = [created_event(**JANUARY, occurredAt=(start + timedelta(minutes=n)).isoformat()) for n in range(runs)]
    await store_created(connection, events)
    answer = await ask(connection)
    assert [run.run_id for run in answer.runs] == [event.run_id for event in events[::-1][:PERIOD_RUNS_MAX]]
    assert answer.has_more == (runs > PERIOD_RUNS_MAX)


def test_a_period_does_not_end_before_it_starts() -> None:
    body = {"orgId": "org-1", "periodStart": "2026-01-02", "periodEnd": "2026-01-01"}
    with pytest.raises(InvalidBody, match="periodEnd: must not be before periodStart"):
        decode(CheckPeriod, json.dumps(body).encode())
