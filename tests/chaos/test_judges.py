"""Each sort of violation is found where it is, and nowhere else: in the store, the queues, the campaign itself."""

import base64
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from handlers.double_exports import unpublished_alerts
from handlers.events import store_created, store_finished
from schema.decoding import decode
from schema.events import RunCreated, RunFinished
from tests.chaos.campaign import MEMORY_JUDGED_FROM_S, Memory
from tests.chaos.checker import (
    COPIES_A_FAULT_MAX,
    DATABASE_KINDS,
    STARTING_S,
    Verdict,
    judge_dead_letters,
    judge_deadlocks,
    judge_double_exports,
    judge_recovery,
    judge_store,
)
from tests.chaos.dead_letters import QUEUES, DeadLetter
from tests.chaos.faults import Faults, schedule
from tests.chaos.test_checker import Line, asked, refused, told, verdict_on, written
from tests.conftest import connected

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Json = dict[str, Any]
Edit = Callable[[list[Json]], list[Json]]

AT = "2026-01-01T00:00:00+00:00"


def uuid(number: int) -> str:
    return f"{number}1111111-1111-4111-8111-111111111111"


def event(number: int, run: int, **facts: Any) -> Json:
    return {
        "eventId": uuid(number),
        "schemaVersion": 1,
        "runId": uuid(run),
        "orgId": "o",
        "occurredAt": AT,
        **facts,
    }


CREATED = event(4, 1, triggeredBy="alice", format="csv")
FINISHED = [
    event(5, 1, status="completed", claimIds=["a"]),
    event(6, 2, status="partial", claimIds=["a", "b"]),
    event(7, 3, status="completed", claimIds=["a"]),
]
"""Three runs that export claim `a`: three double exports."""


def lines_of(*told: tuple[str, Json]) -> list[Line]:
    """Each event is published and confirmed."""
    published: list[Line] = []
    for event_type, each in told:
        ids = {"mid": f"m-{each['eventId']}", "key": each["eventId"]}
        published += [("publish", {**ids, "type": event_type, "body": json.dumps(each)}), ("confirm", ids)]
    return published


LINES = lines_of(("run-created", CREATED), *(("run-finished", each) for each in FINISHED))


@pytest.fixture
async def connection(shared_url: str) -> AsyncIterator[Connection]:
    """A connection whose transaction never commits: one database does for all tests of this file."""
    connection = await connected(shared_url)
    await connection.transaction().start()
    yield connection
    await connection.close()


async def store(connection: Connection) -> None:
    """Have the handlers store all of it; from then on the log can be changed."""
    await store_created(connection, [decode(RunCreated, json.dumps(CREATED).encode())])
    for each in FINISHED:
        await store_finished(connection, [decode(RunFinished, json.dumps(each).encode())])
    await connection.execute("SET LOCAL session_replication_role = replica")


NOTHING = "SELECT"


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (NOTHING, []),
        (
            "DELETE FROM export_run_events WHERE run_id::text LIKE '2%';"
            "DELETE FROM export_run_claims WHERE run_id::text LIKE '2%';"
            "DELETE FROM export_runs WHERE run_id::text LIKE '2%'",
            ["lost"],
        ),
        (
            "ALTER TABLE export_run_events DROP CONSTRAINT export_run_events_pkey;"
            "INSERT INTO export_run_events SELECT * FROM export_run_events WHERE run_id::text LIKE '2%'",
            ["doubled"],
        ),
        ("UPDATE export_runs SET status = 'failed' WHERE status = 'partial'", ["wrong in the store"]),
        ("UPDATE export_runs SET triggered_by = 'mallory' WHERE run_id::text LIKE '1%'", ["wrong in the store"]),
        ("UPDATE export_runs SET claim_count = 2 WHERE run_id::text LIKE '1%'", ["wrong in the store"]),
        ("DELETE FROM export_run_claims WHERE claim_id = 'b'", ["wrong in the store"]),
        ("UPDATE export_run_claims SET outcome = 'attempted' WHERE claim_id = 'b'", ["wrong in the store"]),
        ("UPDATE export_run_claims SET org_id = 'p' WHERE claim_id = 'b'", ["wrong in the store"]),
        ("UPDATE export_run_claims SET run_id = gen_random_uuid() WHERE claim_id = 'b'", ["wrong in the store"]),
        ("DELETE FROM export_runs WHERE status = 'partial'", ["wrong in the store"]),
        (
            "INSERT INTO export_runs (run_id, org_id, created_at) VALUES (gen_random_uuid(), 'o', now())",
            ["wrong in the store"],
        ),
        ("UPDATE export_run_events SET payload = '{}' WHERE run_id::text LIKE '2%'", ["wrong in the store"]),
        (
            "INSERT INTO export_run_events SELECT gen_random_uuid(), event_type, origin, run_id, org_id, occurred_at,"
            " received_at, payload FROM export_run_events LIMIT 1",
            ["wrong in the store"],
        ),
        (
            "INSERT INTO export_run_events SELECT gen_random_uuid(), 'claims-taken', 'request', run_id, org_id,"
            " occurred_at, received_at, payload FROM export_run_events LIMIT 1",
            ["wrong in the store"],
        ),
        (
            "INSERT INTO claim_leases SELECT 'c', org_id, run_id, now(), 1 FROM export_runs LIMIT 1",
            ["wrong in the store"],
        ),
    ],
    ids=[
        "all is well",
        "a confirmed event is gone",
        "an event is logged twice",
        "another status",
        "another fact",
        "another number of claims",
        "a claim is gone",
        "another outcome",
        "a claim of another organisation",
        "a claim of no run",
        "a run is gone",
        "a run of no event",
        "an event says something else",
        "an event nobody published",
        "a lease taken that nobody asked for",
        "a lease of a run that has ended",
    ],
)
async def test_the_store(connection: Connection, tmp_path: Path, spoil: str, found: list[str]) -> None:
    await store(connection)
    await connection.execute(spoil)
    with written(tmp_path, *LINES) as (book, bodies):
        await judge_store(connection, book, bodies)
    assert list(book.verdict.found) == found


@pytest.mark.parametrize(
    ("spoil", "edit", "found"),
    [
        (NOTHING, lambda alerts: alerts, []),
        (NOTHING, lambda alerts: [*alerts, *alerts], []),
        ("DELETE FROM double_exports", lambda alerts: [], ["alert lost", "double export missing"]),
        (
            "INSERT INTO double_exports (org_id, claim_id, first_run_id, second_run_id, found_by)"
            " SELECT 'o', 'b', first_run_id, second_run_id, found_by FROM double_exports LIMIT 1",
            lambda alerts: alerts,
            ["double export wrong"],
        ),
        (
            "DROP INDEX double_exports_pair;"
            "INSERT INTO double_exports (org_id, claim_id, first_run_id, second_run_id, found_by)"
            " SELECT org_id, claim_id, second_run_id, first_run_id, found_by FROM double_exports LIMIT 1",
            lambda alerts: alerts,
            ["double export wrong"],
        ),
        (NOTHING, lambda alerts: alerts[1:], ["alert lost"]),
        (NOTHING, lambda alerts: [{**alerts[0], "foundBy": "repeated-in-run"}, *alerts[1:]], ["alert wrong"]),
        (NOTHING, lambda alerts: [*alerts, {**alerts[0], "id": 99}], ["alert wrong"]),
        (NOTHING, lambda alerts: alerts[::-1], ["alerts out of order"]),
        (NOTHING, lambda alerts: [*alerts, *alerts[-1:] * (COPIES_A_FAULT_MAX + 1)], ["doubled"]),
    ],
    ids=[
        "all is well",
        "alerts come again",
        "not on record",
        "one too many",
        "on record twice",
        "an alert is lost",
        "an alert says something else",
        "an alert of nothing",
        "another order",
        "too many copies",
    ],
)  # fmt: skip
async def test_double_exports(connection: Connection, tmp_path: Path, spoil: str, edit: Edit, found: list[str]) -> None:
    await store(connection)
    async with connection.transaction():
        alerts = await unpublished_alerts(connection, 10) or []
    assert len(alerts) == 3
    with written(tmp_path, *LINES) as (book, bodies):
        exporting = await judge_store(connection, book, bodies)
        await connection.execute(spoil)
        published = edit([json.loads(alert.model_dump_json(by_alias=True)) for alert in alerts])
        await judge_double_exports(connection, published, exporting, book)
    assert sorted(book.verdict.found) == found


POISON, CODE = b"not JSON", "INVALID_EVENT"
POISONED: list[Line] = [
    ("start", {"wall": time.time(), "t": 0.0}),
    (
        "publish",
        {"mid": "m", "key": "p", "type": "run-created", "code": CODE, "b64": base64.b64encode(POISON).decode()},
    ),
]
CONFIRMED: Line = "confirm", {"mid": "m"}
DEAD, OTHER_DEAD, UNROUTABLE = QUEUES


def letter(queue: str = DEAD, body: bytes = POISON, code: str = CODE, mid: str = "m", t: float = 10) -> DeadLetter:
    return DeadLetter(queue, mid, body, code, POISONED[0][1]["wall"] + t)


A_FAULT: list[Line] = [("fault", {"kinds": ["any"], "t": 11.0}), ("calm", {"t": 13.0})]


@pytest.mark.parametrize(
    ("lines", "letters", "found"),
    [
        ([CONFIRMED], [letter()], []),
        ([], [], []),
        ([CONFIRMED, *A_FAULT], [letter(), letter(t=12)], []),
        ([CONFIRMED], [], ["dead letter missing"]),
        ([], [letter(mid="other")], ["dead letter unexpected"]),
        (LINES[:1], [letter(mid=LINES[0][1]["mid"])], ["dead letter unexpected"]),
        ([CONFIRMED], [letter(body=b"other")], ["dead letter wrong"]),
        ([CONFIRMED], [letter(code="TYPE_MISMATCH")], ["dead letter wrong"]),
        ([CONFIRMED], [letter(OTHER_DEAD)], ["dead letter wrong"]),
        ([CONFIRMED], [letter(UNROUTABLE)], ["dead letter wrong"]),
        ([CONFIRMED, *A_FAULT], [letter(t=20), letter(t=21)], ["doubled"]),
    ],
    ids=[
        "there",
        "never confirmed",
        "again after a fault",
        "not there",
        "of nobody",
        "a good event",
        "another body",
        "another reason",
        "another queue",
        "unroutable",
        "again in calm",
    ],
)  # fmt: skip
def test_dead_letters(tmp_path: Path, lines: list[Line], letters: list[DeadLetter], found: list[str]) -> None:
    with written(tmp_path, *POISONED, *lines) as (book, bodies):
        judge_dead_letters(letters, book, bodies)
    assert list(book.verdict.found) == found


def fault(*kinds: str, t: float = 10.0, back: float = 12.0, recovered: float = 13.0, calm: float = 14.0) -> list[Line]:
    """A fault that passes."""
    return [
        ("fault", {"kinds": kinds, "t": t}),
        ("back", {"at": back}),
        ("recovered", {"t": recovered}),
        ("calm", {"t": calm}),
    ]


def end(t: float) -> Line:
    """The last word in a ledger."""
    return asked("last", "a", t=t)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([*fault("any"), end(30)], []),
        ([*fault("any", recovered=22.5, calm=22.5), end(40)], ["slow recovery"]),
        ([*fault("any", calm=22.5), end(40)], ["slow recovery"]),
        ([*fault("any")[:-1], *fault("any", t=80, back=82, recovered=83, calm=84), end(100)], ["no recovery"]),
        ([*fault("any")[:-2], *fault("any", t=80, back=82, recovered=83, calm=84), end(100)], ["no recovery"]),
        ([*fault("any")[:1], ("stuck", {"kind": "any", "t": 11}), *fault("any")[1:], end(30)], ["no recovery"]),
        ([*fault("any"), end(17)], ["no calm"]),
        ([*fault("any"), *fault("any", t=16, back=17, recovered=18, calm=19), end(22)], ["no calm"]),
    ],
    ids=[
        "all is well",
        "serves late",
        "workers are back late",
        "workers are never back",
        "never serves",
        "stuck",
        "over too soon",
        "fault upon fault",
    ],
)  # fmt: skip
def test_recovery_and_calm(tmp_path: Path, lines: list[Line], found: list[str]) -> None:
    with written(tmp_path, *lines) as (book, _):
        book.judge_calm()
        judge_recovery(book, book.verdict, 10)
    assert list(book.verdict.found) == found


@pytest.mark.parametrize(
    ("counted", "log", "found"),
    [
        (0, "LOG:  ready\n", []),
        (2, "", ["deadlock"]),
        (0, "LOG:  ready\nERROR:  deadlock detected\n", ["deadlock"]),
    ],
    ids=["none", "counted", "logged before a crash"],
)
def test_deadlocks(counted: int, log: str, found: list[str]) -> None:
    verdict = Verdict()
    judge_deadlocks(counted, log, verdict)
    assert list(verdict.found) == found


def exited(code: int, age: float = STARTING_S) -> Line:
    return "exit", {"worker": 0, "code": code, "age": age}


PAIR = fault("worker terminated", "broker killed")
NEVER_CALM = fault("any", t=1, back=2)[:2]
YOUNG_S = STARTING_S / 2


@pytest.mark.parametrize(
    ("lines", "is_right"),
    [
        ([exited(0)], True),
        ([exited(1)], False),
        ([*fault("worker terminated")[:1], exited(0)], True),
        ([*fault("worker terminated")[:1], exited(1)], False),
        ([*PAIR[:1], exited(1)], True),
        ([*PAIR[:1], exited(-signal.SIGKILL)], False),
        ([*PAIR[:1], exited(-signal.SIGTERM)], False),
        ([*PAIR[:1], exited(-signal.SIGTERM, YOUNG_S)], True),
        ([*PAIR, exited(1)], False),
        ([*PAIR, exited(-signal.SIGTERM, YOUNG_S)], True),
        ([*fault("worker terminated")[:1], exited(-signal.SIGTERM, YOUNG_S)], False),
        ([*NEVER_CALM, *fault("worker terminated")[:1], exited(1)], True),
    ],
    ids=[
        "done",
        "gives up in calm",
        "done during its fault",
        "gives up alone",
        "gives up beside another fault",
        "has to be killed",
        "does not finish",
        "has not started yet",
        "gives up after all is well",
        "has not started yet, when all is well",
        "does not finish, though it had started",
        "gives up while the last fault lasts",
    ],
)
def test_exit_codes(tmp_path: Path, lines: list[Line], *, is_right: bool) -> None:
    with written(tmp_path, *lines) as (book, _):
        assert list(book.verdict.found) == ([] if is_right else ["wrong exit code"])


SILENT: list[Line] = [
    asked("0", "a", t=1.0),
    ("reply", {**told("0", {}, "a")[1], "t": 2.0}),
    asked("1", "a", t=21.0),
    ("silence", {"id": "1", "t": 22.0}),
    asked("2", "a", retryOf="1", t=23.0),
    ("silence", {"id": "2", "t": 24.0}),
]
UNAVAILABLE: list[Line] = [*SILENT[:-1], ("reply", {**refused("2", "UNAVAILABLE")[1], "t": 24.0})]


@pytest.mark.parametrize(
    ("kinds", "lines", "is_right"),
    [
        (["database killed"], SILENT, False),
        (["database killed", "tables locked"], SILENT, False),
        (["database killed"], UNAVAILABLE, True),
        (["database killed", "worker killed"], SILENT, True),
        (["broker killed"], SILENT, True),
    ],
    ids=["the database", "the database twice", "unavailable", "a worker too", "the broker"],
)
def test_silence_while_only_the_database_is_away(
    tmp_path: Path, kinds: list[str], lines: list[Line], *, is_right: bool
) -> None:
    found = verdict_on(tmp_path, *lines[:2], *fault(*kinds, t=20, back=30, recovered=31, calm=32)[:1], *lines[2:]).found
    assert list(found) == ([] if is_right else ["unanswered though only the database failed"])


def test_silence_that_another_fault_left_behind(tmp_path: Path) -> None:
    before = fault("worker killed", t=12, back=13, recovered=14, calm=22.5)
    assert (
        verdict_on(
            tmp_path, *SILENT[:2], *before, ("fault", {"kinds": ["database killed"], "t": 22.6}), *SILENT[2:]
        ).found
        == {}
    )


def test_the_faults_of_the_database_are_there() -> None:
    assert Faults.kinds.keys() > DATABASE_KINDS


@pytest.mark.parametrize(
    ("last", "duration_s", "grew"),
    [(120, MEMORY_JUDGED_FROM_S, False), (140, MEMORY_JUDGED_FROM_S, True), (140, MEMORY_JUDGED_FROM_S - 1, False)],
)
def test_memory(last: int, duration_s: float, *, grew: bool) -> None:
    measured = [100] * 50 + [last] * 50
    assert Memory.of([measured, measured]).grew(duration_s) is grew


def test_a_seed_gives_one_schedule() -> None:
    """Nothing is drawn from a generator that somebody else draws from."""
    groups = schedule(7, 60, 0.5, quick=False)
    planned = [fault for group in groups for fault in group]
    assert groups == schedule(7, 60, 0.5, quick=False) != schedule(8, 60, 0.5, quick=False)
    assert groups[:20] == schedule(7, 200, 0.5, quick=False)[:20]
    assert len({fault.seed for fault in planned}) == len(planned) == 60
    assert {fault.kind for fault in planned} == Faults.kinds.keys()
    assert {len(group) for group in groups} == {1, 2}
