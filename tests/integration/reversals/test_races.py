"""A reversal beside a reservation or an end of another run: whoever comes second sees what the first one did."""

from uuid import uuid4

from handlers.events import merge_finished
from sql.connection import Connection, transaction
from tests.integration.double_exports.conftest import double_exported_runs
from tests.integration.requests import check
from tests.integration.reservations.conftest import blocked_request, end_event, finish, reserve
from tests.integration.reversals.conftest import outcomes, reverse


async def test_a_reservation_waits_for_a_reversal_and_is_granted(connection: Connection, other: Connection) -> None:
    first, second = uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1")
    async with blocked_request(connection, reverse(connection, first), other, reserve(other, second, "c-1")) as waiting:
        assert (await waiting).granted == ["c-1"]
    assert await connection.fetchval("SELECT count(*) FROM reversal_grants") == 1


async def test_a_reversal_waits_for_a_reservation_that_was_refused(connection: Connection, other: Connection) -> None:
    first, second = uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1")
    async with blocked_request(connection, reserve(connection, second, "c-1"), other, reverse(other, first)) as waiting:
        assert await waiting == ["c-1"]
    assert await connection.fetchval("SELECT count(*) FROM reversal_grants") == 0
    assert (await check(connection, "c-1")).unexported == ["c-1"]


async def test_a_reversal_waits_for_an_end_of_the_same_run(connection: Connection, other: Connection) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "partial", "c-1")
    end = merge_finished(connection, [end_event(run_id, "completed", "c-1", "c-2")])
    async with blocked_request(connection, end, other, reverse(other, run_id)) as waiting:
        assert await waiting == ["c-1", "c-2"]
    assert set((await outcomes(connection, run_id)).values()) == {"reversed"}


async def test_an_end_of_another_run_waits_for_a_reversal(connection: Connection, other: Connection) -> None:
    first, second = uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1")

    async def end() -> None:
        async with transaction(other):
            await merge_finished(other, [end_event(second, "completed", "c-1")])

    async with blocked_request(connection, reverse(connection, first), other, end()) as waiting:
        await waiting
    assert await double_exported_runs(connection) == {"c-1": {first, second}}


async def test_a_reversal_waits_for_the_end_of_another_run(connection: Connection, other: Connection) -> None:
    """So it knows of that export, and never counts as having come before it."""
    first, second = uuid4(), uuid4()
    await finish(connection, first, "completed", "c-1")
    end = merge_finished(connection, [end_event(second, "completed", "c-1", occurredAt="2100-01-01T00:00:00Z")])
    async with blocked_request(connection, end, other, reverse(other, first)) as waiting:
        assert await waiting == ["c-1"]
    assert await double_exported_runs(connection) == {"c-1": {first, second}}


async def test_of_two_reversals_at_one_time_the_second_is_a_repetition(
    connection: Connection, other: Connection
) -> None:
    run_id = uuid4()
    await finish(connection, run_id, "completed", "c-1")
    async with blocked_request(connection, reverse(connection, run_id), other, reverse(other, run_id)) as waiting:
        assert await waiting == ["c-1"]
    assert await connection.fetchval("SELECT count(*) FROM export_reversals") == 1
