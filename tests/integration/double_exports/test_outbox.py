"""The outbox of the alerts: what is put into it, and how workers take it out."""

from uuid import UUID, uuid4

from handlers.alerts import TakenAlert, Turn, next_turn, postpone_alerts, remove_alerts, take_alerts
from handlers.query_arguments import PostponedAlert
from schema.limits import ALERT_CLAIMS_MAX, ALERT_EARLIER_RUNS_MAX
from sql.connection import Connection
from tests.integration.double_exports.conftest import alerts, make_double_exports
from tests.integration.reservations.conftest import end_event, finish
from tests.storing import store_finished

TAKEN_S = 60.0


async def take(
    connection: Connection, org_id: str = "org-1", limit: int = 100, taken_s: float = TAKEN_S
) -> list[TakenAlert]:
    return await take_alerts(connection, [org_id], limit, taken_s)


async def time_passes(connection: Connection) -> None:
    """All that was taken or postponed is due."""
    await connection.execute("UPDATE alerts SET next_attempt_at = next_attempt_at - interval '1 hour'")


# What an alert says


async def test_an_alert_says_which_claims_went_out_and_which_runs_exported_them_before(connection: Connection) -> None:
    one, two, three = uuid4(), uuid4(), uuid4()
    await finish(connection, two, "completed", "c-1", "c-2", occurredAt="2026-01-02T00:00:00Z")
    await finish(connection, one, "completed", "c-4", "c-3", occurredAt="2026-01-01T00:00:00Z")
    before = await connection.fetchval("SELECT clock_timestamp()")
    await finish(connection, three, "completed", "c-5", "c-4", "c-2")
    after = await connection.fetchval("SELECT clock_timestamp()")
    [taken] = await take(connection)
    assert taken.alert.model_dump(by_alias=False, exclude={"event_id", "occurred_at"}) == {
        "schema_version": 2,
        "org_id": "org-1",
        "run_id": three,
        "found_by": "another-run",
        "claim_count": 2,
        "claim_ids": ["c-2", "c-4"],
        "earlier_run_ids": [one, two],
    }
    assert before <= taken.alert.occurred_at <= after


async def test_one_alert_per_run_however_many_claims(connection: Connection) -> None:
    """The first of the claims and of the earlier runs are named, and all claims are counted."""
    claim_ids = sorted(f"c-{number}" for number in range(5 * ALERT_CLAIMS_MAX))
    runs = [uuid4() for _ in range(ALERT_EARLIER_RUNS_MAX + 3)]
    for number, run_id in reversed(list(enumerate(runs))):
        await finish(connection, run_id, "completed", *claim_ids, occurredAt=f"2026-01-{number + 1:02}T00:00:00Z")
    last = [taken.alert for taken in await take(connection)][-1]
    assert last.run_id == runs[0]
    assert (last.claim_count, last.claim_ids) == (len(claim_ids), claim_ids[:ALERT_CLAIMS_MAX])
    assert last.earlier_run_ids == runs[1 : ALERT_EARLIER_RUNS_MAX + 1]
    assert len(await alerts(connection)) == len(runs) - 1


async def test_of_very_many_claims_the_earlier_runs_of_those_that_are_named(connection: Connection) -> None:
    """They are neither the first of their run nor the only ones, and the earliest run comes last by its id."""
    claim_ids = sorted(f"c-{number}" for number in range(5 * ALERT_CLAIMS_MAX))
    named, others = claim_ids[-2 * ALERT_CLAIMS_MAX : -ALERT_CLAIMS_MAX], claim_ids[-ALERT_CLAIMS_MAX:]
    runs = [UUID(int=number) for number in range(9, 5, -1)]
    for day, run_id in enumerate(runs, start=2):
        await finish(connection, run_id, "completed", *named, occurredAt=f"2026-01-{day:02}T00:00:00Z")
    await finish(connection, uuid4(), "completed", *others, occurredAt="2026-01-01T00:00:00Z")
    await finish(connection, last := uuid4(), "completed", *claim_ids)
    [alert] = [taken.alert for taken in await take(connection) if taken.alert.run_id == last]
    assert (alert.claim_count, alert.claim_ids) == (2 * ALERT_CLAIMS_MAX, named)
    assert alert.earlier_run_ids == runs


async def test_exactly_as_many_claims_as_are_named(connection: Connection) -> None:
    claim_ids = sorted(f"c-{number}" for number in range(ALERT_CLAIMS_MAX))
    for _ in range(2):
        await finish(connection, uuid4(), "completed", *claim_ids)
    [taken] = await take(connection)
    assert (taken.alert.claim_count, taken.alert.claim_ids) == (ALERT_CLAIMS_MAX, claim_ids)


async def test_claims_that_a_run_names_twice_have_no_earlier_run(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1", "c-2", "c-1")
    [taken] = await take(connection)
    found = taken.alert.found_by, taken.alert.claim_ids, taken.alert.earlier_run_ids
    assert found == ("repeated-in-run", ["c-1"], [])


async def test_one_alert_for_claims_of_both_kinds(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1")
    await finish(connection, two, "completed", "c-1", "c-2", "c-2")
    [taken] = await take(connection)
    found = taken.alert.found_by, taken.alert.claim_ids, taken.alert.earlier_run_ids
    assert found == ("another-run", ["c-1", "c-2"], [one])


async def test_a_run_that_ends_twice_in_a_batch_has_one_alert(connection: Connection) -> None:
    one, two = uuid4(), uuid4()
    await finish(connection, one, "completed", "c-1", "c-2")
    await store_finished(connection, [end_event(two, "completed", "c-1"), end_event(two, "completed", "c-1", "c-2")])
    [taken] = await take(connection)
    assert (taken.alert.claim_ids, taken.alert.earlier_run_ids) == (["c-1", "c-2"], [one])


async def test_runs_of_one_batch_are_earlier_than_those_behind_them(connection: Connection) -> None:
    runs = [uuid4() for _ in range(3)]
    times = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]
    await store_finished(
        connection,
        [end_event(run, "completed", "c-1", occurredAt=time) for run, time in zip(runs, times, strict=True)],
    )
    earlier = {taken.alert.run_id: taken.alert.earlier_run_ids for taken in await take(connection)}
    assert earlier == {runs[1]: runs[:1], runs[2]: runs[:2]}


# Taking turns


async def test_what_is_taken_is_nobody_elses_until_its_time_is_over(connection: Connection, other: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1", "c-2")
    for claim_id in ("c-1", "c-2"):
        await finish(connection, uuid4(), "completed", claim_id)
    first = await take(connection, limit=1)
    second = await take(other, limit=9)
    assert [each.alert.claim_ids for each in (*first, *second)] == [["c-1"], ["c-2"]]
    assert await take(connection) == await take(other) == []
    await time_passes(connection)
    again = await take(connection)
    assert [each.alert for each in again] == [each.alert for each in (*first, *second)]
    assert [each.attempts for each in again] == [2, 2]


async def test_two_workers_never_take_the_same_at_one_time(connection: Connection, other: Connection) -> None:
    """One has not committed yet: the other passes by, and waits for nobody."""
    await finish(connection, uuid4(), "completed", "c-1")
    for _ in range(4):
        await finish(connection, uuid4(), "completed", "c-1")
    async with connection.transaction():
        mine = await take(connection, limit=2)
        others = await take(other, limit=9)
    assert len(mine) == len(others) == 2
    assert {each.key for each in mine}.isdisjoint(each.key for each in others)


async def test_what_was_published_is_removed(connection: Connection) -> None:
    await make_double_exports(connection, 1)
    await make_double_exports(connection, 1, orgId="org-2")
    taken = await take(connection)
    await remove_alerts(connection, [each.key for each in taken])
    await time_passes(connection)
    assert await take(connection) == []
    assert len(await take(connection, "org-2")) == 1


async def test_each_alert_that_was_not_confirmed_waits_for_itself(connection: Connection) -> None:
    await finish(connection, uuid4(), "completed", "c-1")
    for _ in range(2):
        await finish(connection, uuid4(), "completed", "c-1")
    soon, late = await take(connection)
    await postpone_alerts(connection, [PostponedAlert(*soon.key, 0.0), PostponedAlert(*late.key, 600.0)])
    assert [each.alert for each in await take(connection)] == [soon.alert]
    assert (await take(connection)) == []


async def test_organisations_take_turns(connection: Connection) -> None:
    """However many alerts one has, it is one of them."""
    for org_id, runs in (("org-b", 30), ("org-a", 2), ("org-c", 2), ("\U0001f680", 2)):
        for _ in range(runs):
            await finish(connection, uuid4(), "completed", "c-1", orgId=org_id)
    assert await next_turn(connection, "", 2) == Turn(["org-a", "org-b"], "org-b")
    assert await next_turn(connection, "org-b", 2) == Turn(["org-c", "\U0001f680"], "\U0001f680")
    assert await next_turn(connection, "\U0001f680", 2) == Turn([], None)
    assert await next_turn(connection, "", 3) == Turn(["org-a", "org-b", "org-c"], "org-c")
    assert await next_turn(connection, "", 5) == Turn(["org-a", "org-b", "org-c", "\U0001f680"], None)


async def test_an_organisation_whose_alerts_are_not_due_has_no_turn(connection: Connection) -> None:
    for org_id in ("org-a", "org-b", "org-c"):
        for _ in range(2):
            await finish(connection, uuid4(), "completed", "c-1", orgId=org_id)
    [alert] = await take(connection, "org-b")
    assert await next_turn(connection, "", 3) == Turn(["org-a", "org-c"], "org-c")
    await postpone_alerts(connection, [PostponedAlert(*alert.key, 0.0)])
    assert await next_turn(connection, "", 3) == Turn(["org-a", "org-b", "org-c"], "org-c")


async def test_nothing_holds_a_lock_between_taking_and_removing(connection: Connection, other: Connection) -> None:
    """Not on what the alert is about, and not on the alert itself."""
    await make_double_exports(connection, 1)
    [taken] = await take(connection)
    held = await other.fetch(
        "SELECT locktype, relation::regclass FROM pg_locks WHERE pid = $1", connection.get_server_pid()
    )
    assert held == []
    await remove_alerts(connection, [taken.key])
