"""A report ends at a position below which nothing will be committed, and waits for who has drawn a lower one."""

import asyncio

import pytest

from handlers import reports
from handlers.events import merge_created
from handlers.reports import TABLES, ReportRefused, ReportScope, open_report
from schema.limits import INT64_MAX
from sql.connection import Connection, transaction
from tests.conftest import connected
from tests.storing import created_event, finished_event, store_created, store_finished
from tests.wire import WAIT_S


async def count_of_runs(url: str) -> tuple[int, int]:
    """The runs of a report, and its position."""
    connection = await connected(url)
    try:
        async with open_report(connection, ReportScope(), lambda done, total: None) as report:
            return (await report.control()).runs, report.log.position
    finally:
        await connection.close()


async def test_an_entry_below_the_position_that_is_not_committed_yet_is_waited_for(
    connection: Connection, other: Connection, database_url: str
) -> None:
    async with transaction(other):
        await merge_created(other, [created_event()])
        await store_created(connection, [created_event()])  # has a higher position, and is committed
        waiting = asyncio.create_task(count_of_runs(database_url))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        await store_created(connection, [created_event()])  # nobody waits for the report
    assert await asyncio.wait_for(waiting, WAIT_S) == (2, 2)


async def test_a_writer_that_does_not_end_ends_the_report(
    other: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "WRITERS_WAIT_MAX_S", 0.2)
    async with transaction(other):
        await merge_created(other, [created_event()])
        with pytest.raises(ReportRefused, match="has not ended for 0 s; repeat the command later"):
            await count_of_runs(database_url)


async def test_totals_of_one_run_that_no_number_holds_end_no_report(connection: Connection, other: Connection) -> None:
    totals = [{"currency": "EUR", "claimCount": INT64_MAX, "amount": amount} for amount in ("1", "2")]
    await store_finished(connection, [finished_event(totals=totals), finished_event(claimIds=["c-9"])])
    async with open_report(other, ReportScope(), lambda done, total: None) as report:
        rows = {table.name: [row async for row in report.rows(table)] for table in TABLES}
    assert len(rows["runs"]) == 2
    assert [(row["told_claims"], row["told_amount"]) for row in rows["totals"]] == [(INT64_MAX, 3)]
