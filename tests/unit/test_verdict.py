"""What becomes of events whose transaction failed, by the error of PostgreSQL."""

from dataclasses import replace

import asyncpg
import pytest

from handlers.errors import EventRefused
from schema.errors import DeadLetterCode
from tests.unit.postgres_errors import postgres_error
from worker.events.verdict import Verdict, verdict
from worker.limits import DEFAULT_LIMITS

LIMITS = replace(
    DEFAULT_LIMITS, park_tries_max=3, park_age_max_s=100, lost_connections_suspect_min=2, lost_connections_max=4
)

RETRY, SPLIT, PARK, DEAD_LETTER, REQUEUE = Verdict

OUTAGES = ["08006", "25006", "28P01", "3D000", "42501", "42703", "42P01", "53100", "53300", "57P01", "57P03", "58030"]
INTERRUPTIONS = ["40001", "40P01", "53200", "55P03", "57014", "25P03", "25P04"]
REFUSALS = ["21000", "22001", "22021", "23505", "23514", "54000", "54001"]
BUGS = ["42601", "25P02", "0A000", "P0001", "XX000"]


def judge(
    error: Exception,
    *,
    events: int = 1,
    tries: int = 1,
    age_s: float = 0,
    lost_connections: int = 0,
    others_pass: bool = True,
) -> Verdict:
    return verdict(
        error,
        events=events,
        tries=tries,
        age_s=age_s,
        lost_connections=lost_connections,
        others_pass=others_pass,
        limits=LIMITS,
    )


@pytest.mark.parametrize("sqlstate", OUTAGES)
@pytest.mark.parametrize("events", [1, 2, 200])
@pytest.mark.parametrize("tries", [1, 1000])
def test_during_an_outage_events_are_retried_without_an_end(sqlstate: str, events: int, tries: int) -> None:
    assert judge(postgres_error(sqlstate), events=events, tries=tries, age_s=1e6) is RETRY


def test_an_event_whose_connection_is_lost_again_and_again_is_separated_from_the_others_and_parked() -> None:
    error = postgres_error("08006")
    assert judge(error, lost_connections=1) is RETRY
    assert judge(error, lost_connections=2, events=2) is SPLIT
    assert judge(error, lost_connections=2) is PARK
    assert judge(error, lost_connections=3) is PARK
    assert judge(error, lost_connections=4) is DEAD_LETTER
    assert judge(error, lost_connections=4, events=2) is SPLIT
    assert judge(error, lost_connections=1000, others_pass=False) is RETRY


@pytest.mark.parametrize("sqlstate", INTERRUPTIONS)
def test_an_interrupted_event_is_separated_from_the_others_and_parked(sqlstate: str) -> None:
    error = postgres_error(sqlstate)
    assert judge(error, events=2) is SPLIT
    assert judge(error, events=1) is PARK
    assert judge(error, tries=2) is PARK
    assert judge(error, tries=3) is DEAD_LETTER
    assert judge(error, age_s=99) is PARK
    assert judge(error, age_s=100) is DEAD_LETTER


@pytest.mark.parametrize("sqlstate", INTERRUPTIONS)
@pytest.mark.parametrize("events", [1, 2])
def test_if_no_other_event_is_stored_an_interruption_is_an_outage(sqlstate: str, events: int) -> None:
    assert judge(postgres_error(sqlstate), events=events, tries=1000, age_s=1e6, others_pass=False) is RETRY


@pytest.mark.parametrize("sqlstate", REFUSALS)
def test_an_event_that_postgresql_refuses_is_dead_lettered_alone(sqlstate: str) -> None:
    assert judge(postgres_error(sqlstate), events=2) is SPLIT
    assert judge(postgres_error(sqlstate)) is DEAD_LETTER


@pytest.mark.parametrize("sqlstate", BUGS)
def test_an_event_that_meets_a_bug_is_requeued_alone(sqlstate: str) -> None:
    assert judge(postgres_error(sqlstate), events=2) is SPLIT
    assert judge(postgres_error(sqlstate)) is REQUEUE


def test_an_event_that_a_handler_refuses_is_dead_lettered_alone() -> None:
    refused = EventRefused(DeadLetterCode.EVENT_ID_REUSED, "eventId: is taken")
    assert judge(refused, events=2) is SPLIT
    assert judge(refused) is DEAD_LETTER


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(), RETRY),
        (TimeoutError(), RETRY),
        (asyncpg.InterfaceError("closed"), RETRY),
        (ZeroDivisionError(), REQUEUE),
    ],
)
def test_errors_without_a_code(error: Exception, expected: Verdict) -> None:
    assert judge(error) is expected
