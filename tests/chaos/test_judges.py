"""Each kind of violation is found where it is, and nowhere else: in the store, the queues, the campaign itself."""

import base64
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from handlers.alerts import take_alerts
from schema.decoding import decode
from schema.events import RunCreated, RunFinished
from tests.chaos.campaign import MEMORY_JUDGED_FROM_S, Memory
from tests.chaos.checker import judge_dead_letters, judge_deadlocks, judge_recovery
from tests.chaos.dead_letters import QUEUES, DeadLetter
from tests.chaos.faults import Faults, schedule
from tests.chaos.ledger_faults import DATABASE_KINDS
from tests.chaos.ledger_index import STARTING_S
from tests.chaos.ledger_lines import Line, check_reply, claim_check, error_reply, fault, verdict_on, written_ledger
from tests.chaos.store import ALERT_COPIES_PER_FAULT_MAX, judge_double_exports, judge_store
from tests.chaos.verdict import Verdict
from tests.conftest import connected
from tests.storing import store_created, store_finished

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Json = dict[str, Any]
Edit = Callable[[list[Json]], list[Json]]

AT = "2026-01-01T00:00:00+00:00"


def uuid(number: int) -> str:
    return f"{number}1111111-1111-4111-8111-111111111111"


def event(number: int, run: int, **fields: Any) -> Json:
    return {
        "eventId": uuid(number),
        "schemaVersion": 1,
        "runId": uuid(run),
        "orgId": "o",
        "occurredAt": AT,
        **fields,
    }


CREATED = event(4, 1, triggeredBy="alice", format="csv")
FINISHED = [
    event(5, 1, status="completed", claimIds=["a"]),
    event(6, 2, status="partial", claimIds=["a", "b"]),
    event(7, 3, status="completed", claimIds=["a"]),
]
"""Three runs that export claim `a`: one double export, and an alert for the second and for the third."""


def lines_of(*events: tuple[str, Json]) -> list[Line]:
    """Each of these events, with its type, is published and confirmed."""
    lines: list[Line] = []
    for event_type, each in events:
        ids = {"mid": f"m-{each['eventId']}", "key": each["eventId"]}
        lines += [("publish", {**ids, "type": event_type, "body": json.dumps(each)}), ("confirm", ids)]
    return lines


LINES = lines_of(("run-created", CREATED), *(("run-finished", each) for each in FINISHED))


@pytest.fixture
async def connection(shared_url: str) -> AsyncIterator[Connection]:
    """A connection whose transaction is never committed, so that all tests of this file can use one database."""
    connection = await connected(shared_url)
    await connection.transaction().start()
    yield connection
    await connection.close()


async def store(connection: Connection) -> None:
    """Store all events. From then on this connection may change the log."""
    await store_created(connection, [decode(RunCreated, json.dumps(CREATED).encode())])
    for each in FINISHED:
        await store_finished(connection, [decode(RunFinished, json.dumps(each).encode())])
    await connection.execute("SET LOCAL session_replication_role = replica")


NO_CHANGE = "SELECT"


@pytest.mark.parametrize(
    ("spoil", "violations"),
    [
        (NO_CHANGE, []),
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
        "nothing is wrong",
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
        "an event with other content",
        "an event nobody published",
        "a lease taken that nobody requested",
        "a lease of a run that has ended",
    ],
)
async def test_each_wrong_row_in_the_store_is_a_violation(
    connection: Connection, tmp_path: Path, spoil: str, violations: list[str]
) -> None:
    await store(connection)
    await connection.execute(spoil)
    with written_ledger(tmp_path, *LINES) as (index, bodies):
        await judge_store(connection, index, bodies)
    assert list(index.verdict.violations) == violations


def with_first_alert(alerts: list[Json], **fields: Any) -> list[Json]:
    """The alerts, with other fields in the first one."""
    return [{**alerts[0], **fields}, *alerts[1:]]


@pytest.mark.parametrize(
    ("spoil", "edit", "violations"),
    [
        (NO_CHANGE, lambda alerts: alerts, []),
        (NO_CHANGE, lambda alerts: [*alerts, *alerts], []),
        (NO_CHANGE, lambda alerts: alerts[::-1], []),
        ("DELETE FROM double_exported_claims", lambda alerts: [], ["alert lost", "double export missing"]),
        (
            "INSERT INTO double_exported_claims (org_id, claim_id, detected_at, last_joined_at)"
            " VALUES ('o', 'b', now(), now())",
            lambda alerts: alerts,
            ["double export wrong"],
        ),
        (
            "ALTER TABLE double_exported_claims DROP CONSTRAINT double_exported_claims_pkey;"
            "INSERT INTO double_exported_claims SELECT * FROM double_exported_claims",
            lambda alerts: alerts,
            ["double export wrong"],
        ),
        (NO_CHANGE, lambda alerts: alerts[1:], ["alert lost"]),
        (NO_CHANGE, lambda alerts: with_first_alert(alerts, runId=uuid(9)), ["alert lost", "alert wrong"]),
        (NO_CHANGE, lambda alerts: with_first_alert(alerts, claimIds=["b"]), ["alert lost", "alert wrong"]),
        (NO_CHANGE, lambda alerts: with_first_alert(alerts, claimIds=["a", "a"]), ["alert wrong"]),
        (NO_CHANGE, lambda alerts: with_first_alert(alerts, claimCount=2), ["alert wrong"]),
        (NO_CHANGE, lambda alerts: with_first_alert(alerts, earlierRunIds=[uuid(9)]), ["alert wrong"]),
        (NO_CHANGE, lambda alerts: with_first_alert(alerts, earlierRunIds=[]), ["alert wrong"]),
        (NO_CHANGE, lambda alerts: with_first_alert(alerts, foundBy="repeated-in-run"), ["alert wrong"]),
        (NO_CHANGE, lambda alerts: [*alerts, *with_first_alert(alerts[:1], orgId="p")], ["alert wrong"]),
        (NO_CHANGE, lambda alerts: [*alerts, *with_first_alert(alerts[:1], occurredAt=AT)], ["alert wrong"]),
        (NO_CHANGE, lambda alerts: [*alerts, *alerts[-1:] * (ALERT_COPIES_PER_FAULT_MAX + 1)], ["doubled"]),
    ],
    ids=[
        "nothing is wrong",
        "all alerts come twice",
        "another order",
        "no record",
        "a record too many",
        "two records of one claim",
        "an alert is lost",
        "an alert of another run",
        "an alert of another claim",
        "an alert that names a claim twice",
        "an alert of more claims",
        "an alert with a wrong earlier run",
        "an alert without an earlier run",
        "an alert that was found in another way",
        "an alert without a record",
        "copies differ",
        "too many copies",
    ],
)  # fmt: skip
async def test_each_wrong_double_export_or_alert_is_a_violation(
    connection: Connection, tmp_path: Path, spoil: str, edit: Edit, violations: list[str]
) -> None:
    await store(connection)
    alerts = [taken.alert for taken in await take_alerts(connection, ["o"], 10, 60)]
    assert len(alerts) == 2
    with written_ledger(tmp_path, *LINES) as (index, bodies):
        partners = await judge_store(connection, index, bodies)
        await connection.execute(spoil)
        alert_bodies = edit([json.loads(alert.model_dump_json(by_alias=True)) for alert in alerts])
        await judge_double_exports(connection, alert_bodies, partners, index)
    assert sorted(index.verdict.violations) == violations


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


FAULT_LINES: list[Line] = [("fault", {"kinds": ["any"], "t": 11.0}), ("calm", {"t": 13.0})]


@pytest.mark.parametrize(
    ("lines", "letters", "violations"),
    [
        ([CONFIRMED], [letter()], []),
        ([], [], []),
        ([CONFIRMED, *FAULT_LINES], [letter(), letter(t=12)], []),
        ([CONFIRMED], [], ["dead letter missing"]),
        ([], [letter(mid="other")], ["dead letter unexpected"]),
        (LINES[:1], [letter(mid=LINES[0][1]["mid"])], ["dead letter unexpected"]),
        ([CONFIRMED], [letter(body=b"other")], ["dead letter wrong"]),
        ([CONFIRMED], [letter(code="TYPE_MISMATCH")], ["dead letter wrong"]),
        ([CONFIRMED], [letter(OTHER_DEAD)], ["dead letter wrong"]),
        ([CONFIRMED], [letter(UNROUTABLE)], ["dead letter wrong"]),
        ([CONFIRMED, *FAULT_LINES], [letter(t=20), letter(t=21)], ["doubled"]),
    ],
    ids=[
        "it is there",
        "never confirmed",
        "a second copy after a fault",
        "it is not there",
        "never published",
        "a good event",
        "another body",
        "another error code",
        "another queue",
        "unroutable",
        "a second copy in calm",
    ],
)  # fmt: skip
def test_each_wrong_dead_letter_is_a_violation(
    tmp_path: Path, lines: list[Line], letters: list[DeadLetter], violations: list[str]
) -> None:
    with written_ledger(tmp_path, *POISONED, *lines) as (index, bodies):
        judge_dead_letters(letters, index, bodies)
    assert list(index.verdict.violations) == violations


def end(t: float) -> Line:
    """The last line of a ledger."""
    return claim_check("last", "a", t=t)


@pytest.mark.parametrize(
    ("lines", "violations"),
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
        "nothing is wrong",
        "the service answers late",
        "the workers are back late",
        "the workers are never back",
        "the service never answers",
        "the fault is never undone",
        "the campaign is too short",
        "one fault after the other",
    ],
)  # fmt: skip
def test_a_slow_recovery_or_too_little_calm_is_a_violation(
    tmp_path: Path, lines: list[Line], violations: list[str]
) -> None:
    with written_ledger(tmp_path, *lines) as (index, _):
        index.judge_calm()
        judge_recovery(index, index.verdict, 10)
    assert list(index.verdict.violations) == violations


@pytest.mark.parametrize(
    ("counted", "log", "violations"),
    [
        (0, "LOG:  ready\n", []),
        (2, "", ["deadlock"]),
        (0, "LOG:  ready\nERROR:  deadlock detected\n", ["deadlock"]),
    ],
    ids=["none", "counted", "logged before a crash"],
)
def test_each_deadlock_is_a_violation(counted: int, log: str, violations: list[str]) -> None:
    verdict = Verdict()
    judge_deadlocks(counted, log, verdict)
    assert list(verdict.violations) == violations


def exit_line(code: int, age: float = STARTING_S) -> Line:
    return "exit", {"worker": 0, "code": code, "age": age}


PAIR = fault("worker terminated", "broker killed")
NEVER_CALM = fault("any", t=1, back=2)[:2]
YOUNG_S = STARTING_S / 2


@pytest.mark.parametrize(
    ("lines", "is_right"),
    [
        ([exit_line(0)], True),
        ([exit_line(1)], False),
        ([*fault("worker terminated")[:1], exit_line(0)], True),
        ([*fault("worker terminated")[:1], exit_line(1)], False),
        ([*PAIR[:1], exit_line(1)], True),
        ([*PAIR[:1], exit_line(-signal.SIGKILL)], False),
        ([*PAIR[:1], exit_line(-signal.SIGTERM)], False),
        ([*PAIR[:1], exit_line(-signal.SIGTERM, YOUNG_S)], True),
        ([*PAIR, exit_line(1)], False),
        ([*PAIR, exit_line(-signal.SIGTERM, YOUNG_S)], True),
        ([*fault("worker terminated")[:1], exit_line(-signal.SIGTERM, YOUNG_S)], False),
        ([*NEVER_CALM, *fault("worker terminated")[:1], exit_line(1)], True),
    ],
    ids=[
        "it finishes",
        "it gives up in calm",
        "it finishes during its fault",
        "it gives up during its fault alone",
        "it gives up beside another fault",
        "it has to be killed",
        "it does not finish",
        "it has not started yet",
        "it gives up when calm is back",
        "it has not started yet, when calm is back",
        "it does not finish, though it had started",
        "it gives up while the last fault lasts",
    ],
)
def test_a_wrong_exit_code_is_a_violation(tmp_path: Path, lines: list[Line], *, is_right: bool) -> None:
    with written_ledger(tmp_path, *lines) as (index, _):
        assert list(index.verdict.violations) == ([] if is_right else ["wrong exit code"])


SILENT: list[Line] = [
    claim_check("0", "a", t=1.0),
    ("reply", {**check_reply("0", {}, "a")[1], "t": 2.0}),
    claim_check("1", "a", t=21.0),
    ("silence", {"id": "1", "t": 22.0}),
    claim_check("2", "a", retryOf="1", t=23.0),
    ("silence", {"id": "2", "t": 24.0}),
]
UNAVAILABLE: list[Line] = [*SILENT[:-1], ("reply", {**error_reply("2", "UNAVAILABLE")[1], "t": 24.0})]


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
def test_silence_while_only_the_database_is_away_is_a_violation(
    tmp_path: Path, kinds: list[str], lines: list[Line], *, is_right: bool
) -> None:
    start_of_fault = fault(*kinds, t=20)[:1]
    verdict = verdict_on(tmp_path, *lines[:2], *start_of_fault, *lines[2:])
    assert list(verdict.violations) == ([] if is_right else ["unanswered though only the database failed"])


def test_silence_right_after_another_fault_is_no_violation(tmp_path: Path) -> None:
    before = fault("worker killed", t=12, back=13, recovered=14, calm=22.5)
    start_of_fault = fault("database killed", t=22.6)[:1]
    assert verdict_on(tmp_path, *SILENT[:2], *before, *start_of_fault, *SILENT[2:]).violations == {}


def test_every_kind_of_fault_of_the_database_exists() -> None:
    assert Faults.kinds.keys() > DATABASE_KINDS


@pytest.mark.parametrize(
    ("last", "duration_s", "grew"),
    [(120, MEMORY_JUDGED_FROM_S, False), (140, MEMORY_JUDGED_FROM_S, True), (140, MEMORY_JUDGED_FROM_S - 1, False)],
)
def test_memory_that_grows_by_more_than_30_percent_is_a_violation(last: int, duration_s: float, *, grew: bool) -> None:
    measurements = [100] * 50 + [last] * 50
    assert Memory.of([measurements, measurements]).grew(duration_s) is grew


def test_a_seed_gives_one_schedule() -> None:
    """The schedule has a random generator of its own, and each fault another one."""
    groups = schedule(7, 60, 0.5, quick=False)
    faults = [fault for group in groups for fault in group]
    assert groups == schedule(7, 60, 0.5, quick=False) != schedule(8, 60, 0.5, quick=False)
    assert groups[:20] == schedule(7, 200, 0.5, quick=False)[:20]
    assert len({fault.seed for fault in faults}) == len(faults) == 60
    assert {fault.kind for fault in faults} == Faults.kinds.keys()
    assert {len(group) for group in groups} == {1, 2}
