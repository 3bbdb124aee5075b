"""The checker finds what one organisation, worker or request costs the others, and what the standby did not get."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import uuid4

import asyncpg
import pytest

from local.postgresql import NOT_DURABLE, LocalPostgreSQL
from tests.chaos.bad_requests import LARGE_CLAIM_CHARS, LARGE_EVENT_CLAIMS, LARGE_RUN_EVENTS, large_run
from tests.chaos.events import Claims, EventStream
from tests.chaos.faults import Faults
from tests.chaos.ledger_faults import ALONE_WITHOUT_DATABASE, CONTAINED_KINDS, HAND_OVER_MAX_S
from tests.chaos.ledger_index import SETTLED_S
from tests.chaos.ledger_lines import (
    Line,
    check_reply,
    claim_check,
    error_reply,
    fault,
    finished_event,
    reservation,
    verdict_on,
    written_ledger,
)
from tests.chaos.standby import PRIMARY_SETTINGS, Standby
from tests.chaos.waits import judge_waits

ROW_LOCKED = "a run's row locked"
FIRST: list[Line] = [claim_check("0", "a", t=1.0), ("reply", {**check_reply("0", {}, "a")[1], "t": 2.0})]


def affected(org: str) -> Line:
    return "affected", {"org": org}


def refusal(t: float, ident: str = "1") -> list[Line]:
    """A check that gets UNAVAILABLE a second later."""
    return [claim_check(ident, "a", t=t), ("reply", {**error_reply(ident, "UNAVAILABLE")[1], "t": t + 1})]


def test_the_judges_name_only_kinds_of_faults_that_exist() -> None:
    assert Faults.kinds.keys() > {*CONTAINED_KINDS, ALONE_WITHOUT_DATABASE}


REFUSALS: dict[str, tuple[list[Line], bool]] = {
    "in calm": (refusal(20), False),
    "during a fault about all": ([*fault("any", t=20)[:1], *refusal(20)], True),
    "the organisation is affected": ([*fault(ROW_LOCKED, t=20)[:1], affected("o"), *refusal(20)], True),
    "another one is affected": ([*fault(ROW_LOCKED, t=20)[:1], affected("p"), *refusal(20)], False),
    "beside a fault about all": ([*fault(ROW_LOCKED, "any", t=20)[:1], affected("p"), *refusal(20)], True),
    "a worker has just lost its database": ([*fault(ALONE_WITHOUT_DATABASE, t=20)[:1], *refusal(20)], True),
    "the others had time": ([*fault(ALONE_WITHOUT_DATABASE, t=20)[:1], *refusal(21 + HAND_OVER_MAX_S)], False),
}


@pytest.mark.parametrize(("lines", "is_right"), REFUSALS.values(), ids=REFUSALS.keys())
def test_unavailable_is_right_only_during_a_fault_that_explains_it(
    tmp_path: Path, lines: list[Line], *, is_right: bool
) -> None:
    violations = verdict_on(tmp_path, *FIRST, *lines).violations
    assert list(violations) == ([] if is_right else ["unanswered in calm"])


def settled(t: float, *between: Line) -> list[Line]:
    """An export that is confirmed at 10, and a check at `t` that does not know it."""
    return [
        *FIRST,
        (finished_event()[0], {**finished_event()[1], "t": 9.0}),
        ("confirm", {"mid": "m-e", "t": 10.0}),
        *between,
        claim_check("1", "a", t=t),
        ("reply", {**check_reply("1", {}, "a")[1], "t": t + 0.1}),
    ]


SETTLED: dict[str, tuple[list[Line], bool]] = {
    "just confirmed": (settled(10.0 + SETTLED_S), True),
    "settled": (settled(10.1 + SETTLED_S), False),
    "a fault lies between": (settled(20, *fault("any", t=12, back=13, recovered=14, calm=15)), True),
    "a fault about another": (settled(20, fault(ROW_LOCKED, t=12)[0], affected("p")), False),
    "a fault about this one": (settled(20, fault(ROW_LOCKED, t=12)[0], affected("o")), True),
}


@pytest.mark.parametrize(("lines", "is_right"), SETTLED.values(), ids=SETTLED.keys())
def test_a_check_must_know_a_settled_export(tmp_path: Path, lines: list[Line], *, is_right: bool) -> None:
    assert list(verdict_on(tmp_path, *lines).violations) == ([] if is_right else ["wrong reply"])


def shares(*samples: tuple[float, int, int]) -> list[Line]:
    return [("shares", {"t": t, "sent": sent}) for t, *sent in samples]


SHARES: dict[str, tuple[list[Line], bool]] = {
    "both work": (shares((1, 0, 0), (3, 50_000, 60_000), (5, 100_000, 110_000)), True),
    "one is idle": (shares((1, 0, 0), (3, 50_000, 100), (5, 110_000, 200)), False),
    "one is idle for a moment": (shares((1, 0, 0), (3, 200_000, 100)), True),
    "both are idle": (shares((1, 0, 0), (5, 1_000, 0)), True),
    "one is idle during a fault": ([*fault("any", t=0.5)[:1], *shares((1, 0, 0), (5, 200_000, 0))], True),
}


@pytest.mark.parametrize(("lines", "is_right"), SHARES.values(), ids=SHARES.keys())
def test_a_worker_that_is_idle_in_calm_is_a_violation(tmp_path: Path, lines: list[Line], *, is_right: bool) -> None:
    assert list(verdict_on(tmp_path, *lines).violations) == ([] if is_right else ["idle worker in calm"])


def bad_request(*codes: str | None) -> list[Line]:
    """A bad request whose reply must be UNAVAILABLE, and its reply."""
    return [
        ("bad-ask", {"id": "b", "code": "UNAVAILABLE", "t": 20.0}),
        *(("bad-reply", {"id": "b", "code": code, "t": 20.1}) for code in codes),
    ]


BAD_REQUESTS: dict[str, tuple[list[Line], list[str]]] = {
    "the right code": (bad_request("UNAVAILABLE"), []),
    "another code": (bad_request("INTERNAL"), ["wrong reply"]),
    "no error": (bad_request(None), ["wrong reply"]),
    "no reply": (bad_request(), ["bad request unanswered"]),
    "no reply during a fault": ([*fault("any", t=21)[:1], *bad_request()], []),
    "no reply beside a fault about others": (
        [*fault(ROW_LOCKED, t=20)[:1], *bad_request()],
        ["bad request unanswered"],
    ),
    "not sent": ([*bad_request(), ("bad-unsent", {"id": "b"})], []),
}


@pytest.mark.parametrize(("lines", "violations"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_bad_request_must_get_the_right_error(tmp_path: Path, lines: list[Line], violations: list[str]) -> None:
    assert list(verdict_on(tmp_path, *lines).violations) == violations


AWAY: Line = ("standby away", {})
BACK: Line = ("standby back", {})
RESERVED = reservation("1", "r", 3600, 1)
STANDBY: dict[str, tuple[list[Line], bool]] = {
    "it is there": (RESERVED, True),
    "it is away": ([AWAY, *RESERVED], False),
    "it is back": ([AWAY, BACK, *RESERVED], True),
    "it left meanwhile": ([RESERVED[0], AWAY, RESERVED[1]], True),
    "it has every event": ([("unreplicated", {"keys": []})], True),
    "an event is on the primary alone": ([("unreplicated", {"keys": ["e"]})], False),
}


@pytest.mark.parametrize(("lines", "is_right"), STANDBY.values(), ids=STANDBY.keys())
def test_what_is_acknowledged_must_be_on_the_standby(tmp_path: Path, lines: list[Line], *, is_right: bool) -> None:
    violations = verdict_on(tmp_path, *lines).violations
    assert list(violations) == ([] if is_right else ["acknowledged without the standby"])


async def test_the_standby_misses_commits_while_it_is_away_and_gets_them_afterwards() -> None:
    insert = "INSERT INTO export_run_events VALUES (gen_random_uuid())"
    with LocalPostgreSQL(NOT_DURABLE | PRIMARY_SETTINGS) as primary:
        standby = Standby(primary)
        try:
            await standby.start()
            connection = await asyncpg.connect(primary.url)
            await connection.execute("CREATE TABLE export_run_events (event_id uuid)")
            await connection.execute(insert)
            await standby.leave()
            await connection.execute(f"SET synchronous_commit = local; {insert}")
            assert len(await standby.logged_events()) == 1
            await standby.restart()
            assert len(await standby.logged_events()) == 1
            await standby.join()
            await connection.execute(f"SET synchronous_commit = remote_apply; {insert}")
            assert len(await standby.logged_events()) == 3
            await connection.close()
        finally:
            standby.close()


WAITS: dict[str, tuple[float, list[Line], list[str]]] = {
    "short": (4.0, [], []),
    "long": (6.0, [], ["waited for another's trouble"]),
    "long, and the organisation is affected": (6.0, [*fault(ROW_LOCKED, t=1)[:1], affected("o")], []),
    "long, and another one is affected": (
        6.0,
        [*fault(ROW_LOCKED, t=1)[:1], affected("p")],
        ["waited for another's trouble"],
    ),
    "long, and a fault is about all": (6.0, fault("any", t=1)[:1], []),
    "long, and a worker is alone without its database": (6.0, fault(ALONE_WITHOUT_DATABASE, t=1)[:1], []),
    "very long, and a worker is alone without its database": (
        6.0 + HAND_OVER_MAX_S,
        fault(ALONE_WITHOUT_DATABASE, t=1)[:1],
        ["waited for another's trouble"],
    ),
}


@pytest.fixture(scope="module")
def timed_server() -> Iterator[LocalPostgreSQL]:
    """A server that notes when each transaction was committed."""
    with LocalPostgreSQL(NOT_DURABLE | PRIMARY_SETTINGS) as server:
        yield server


@pytest.mark.parametrize(("waited_s", "lines", "violations"), WAITS.values(), ids=WAITS.keys())
async def test_an_event_that_waits_too_long_is_a_violation(
    timed_server: LocalPostgreSQL, tmp_path: Path, waited_s: float, lines: list[Line], violations: list[str]
) -> None:
    key = str(uuid4())
    connection = await asyncpg.connect(timed_server.url)
    await connection.execute("DROP TABLE IF EXISTS export_run_events")
    await connection.execute("CREATE TABLE export_run_events (event_id uuid, org_id text, event_type text)")
    await connection.execute("INSERT INTO export_run_events VALUES ($1, 'o', 'run-finished')", key)
    confirm_t = 10.0
    wall = time.time() - waited_s - confirm_t
    ledger: list[Line] = [
        ("start", {"wall": wall, "t": 0.0}),
        *lines,
        finished_event(key),
        ("confirm", {"mid": f"m-{key}", "t": confirm_t}),
    ]
    with written_ledger(tmp_path, *ledger) as (index, _):
        await judge_waits(connection, index, 5.0)
    await connection.close()
    assert list(index.verdict.violations) == violations


def test_the_large_run_is_larger_than_any_reply() -> None:
    _, events = large_run(EventStream(Random(1), Claims()))
    assert all(len(event.body) < 4 * 1024 * 1024 for event in events)
    assert LARGE_RUN_EVENTS * LARGE_EVENT_CLAIMS * (LARGE_CLAIM_CHARS + 3) > 15 * 1024 * 1024
    claims = [claim for event in events for claim in json.loads(event.body)["claimIds"]]
    assert len(set(claims)) == len(claims)
