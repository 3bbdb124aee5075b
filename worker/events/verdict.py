"""What becomes of events whose transaction failed: a pure decision, so that a table can show all of it."""

from enum import Enum, auto
from typing import assert_never

from handlers.errors import EventRefused
from worker.database.errors import Failure, meaning_of
from worker.limits import WorkerLimits


class Verdict(Enum):
    """What to do with the events of a transaction that failed."""

    RETRY = auto()
    """Keep them and try again: PostgreSQL stores no events at all now."""

    SPLIT = auto()
    """Try parts of them: one of them is to blame, the others are not."""

    PARK = auto()
    """Put this one aside, and try it again later; those behind it go on."""

    DEAD_LETTER = auto()
    """Publish this one to the dead letters, with the reason."""

    REQUEUE = auto()
    """Give this one back to RabbitMQ, later each time: a bug, which its delivery limit bounds."""


def verdict(
    error: Exception,
    *,
    events: int,
    tries: int,
    age_s: float,
    lost_connections: int,
    others_pass: bool,
    limits: WorkerLimits,
) -> Verdict:
    """What to do with the events of one transaction: their number, how often they were tried, and for how long.

    `lost_connections`: how many of their transactions ended with the connection. Once says nothing of these events,
    since PostgreSQL may have been restarted; several times, and others pass, says that they may be the cause.

    `others_pass`: whether PostgreSQL accepts other transactions that write. Without that a lock or a time-out says
    nothing of these events.
    """
    if isinstance(error, EventRefused):
        return Verdict.SPLIT if events > 1 else Verdict.DEAD_LETTER
    match meaning_of(error):
        case Failure.UNAVAILABLE:
            if lost_connections < limits.lost_connections_suspect_min or not others_pass:
                return Verdict.RETRY
            if events > 1:
                return Verdict.SPLIT
            return Verdict.DEAD_LETTER if lost_connections >= limits.lost_connections_max else Verdict.PARK
        case Failure.INTERRUPTED:
            if not others_pass:
                return Verdict.RETRY
            if events > 1:
                return Verdict.SPLIT
            is_over = tries >= limits.park_tries_max or age_s >= limits.park_age_max_s
            return Verdict.DEAD_LETTER if is_over else Verdict.PARK
        case Failure.UNSTORABLE:
            return Verdict.SPLIT if events > 1 else Verdict.DEAD_LETTER
        case Failure.BUG:
            return Verdict.SPLIT if events > 1 else Verdict.REQUEUE
        case failure:
            assert_never(failure)
