"""Limits of a worker that contradict each other are refused where they are defined."""

import pytest

from worker.limits import DEFAULT_LIMITS, WorkerLimits
from worker.settings import STATEMENT_TIMEOUT_MAX_S


@pytest.mark.parametrize(
    "limits",
    [
        {"requeue_delay_first_s": 2, "requeue_delay_max_s": 1},
        {"retry_delay_first_s": 0},
        {"reply_margin_share": 1},
        {"writes_max": 0},
        {"batch_bytes_max": 0},
        {"event_bodies_bytes_max": 36 * 1024 * 1024 - 1},
    ],
    ids=lambda limits: ", ".join(limits),
)
def test_limits_that_contradict_each_other_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(AssertionError):
        WorkerLimits(**limits)  # type: ignore[arg-type]


def test_limits_that_just_agree_are_accepted() -> None:
    WorkerLimits(requeue_delay_first_s=1, requeue_delay_max_s=1, reply_margin_share=0, writes_max=1)
    WorkerLimits(event_bodies_bytes_max=36 * 1024 * 1024)


def test_the_prefetch_has_room_for_the_next_batch() -> None:
    """It has room even while every writer is busy, and as many events are parked as may be."""
    busy = DEFAULT_LIMITS.writes_max * DEFAULT_LIMITS.batch_events_max + DEFAULT_LIMITS.parked_events_max
    assert DEFAULT_LIMITS.prefetch_events == busy + DEFAULT_LIMITS.batch_events_max


def test_a_write_counts_as_hung_only_when_it_hangs() -> None:
    """Few statements of a write come near the time-out that PostgreSQL has for each, even the longest allowed."""
    assert DEFAULT_LIMITS.store_timeout_s > 7 * STATEMENT_TIMEOUT_MAX_S
