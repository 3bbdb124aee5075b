"""A dead letter: what its message says about it, and which letters a command selects."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pamqp.common import FieldTable

from schema import names
from schema.fields import WireModel
from worker.broker.deliveries import Delivery
from worker.events.dead_letters import DETAIL_CHARS_MAX

CODE_CHARS_MAX: Final = 64

REPLAY_COUNT_HEADER: Final = "x-replay-count"
REPLAYED_ERRORS_HEADER: Final = "x-replayed-errors"
REPLAY_ID_HEADER: Final = "x-replay-id"
"""The replay that published a message: if that message fails at once, the same replay does not publish it again."""

UNROUTABLE: Final = "UNROUTABLE"
UNKNOWN: Final = "UNKNOWN"


class DeadLetter(WireModel):
    """What a message in a queue of dead letters says about itself. The body stays in its delivery."""

    queue: str
    message_id: str | None
    error_code: str
    """The worker's code (`DeadLetterCode`), RabbitMQ's reason (`DELIVERY_LIMIT`), UNROUTABLE or UNKNOWN."""

    error_detail: str
    failed_at: datetime | None
    """When it failed. If nobody recorded that: when RabbitMQ received it, or when its publisher says it sent it."""

    event_type: str
    size_bytes: int
    replays: int
    replayed_errors: list[str]
    replay_id: str | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters a command selects: those that meet every condition that is given."""

    message_ids: frozenset[str] = frozenset()
    error_code: str | None = None
    failed_before: datetime | None = None
    failed_after: datetime | None = None
    limit: int | None = None
    not_replayed_by: str | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this letter is selected. A letter without a time of failure is in no range of time."""
        if self.message_ids and letter.message_id not in self.message_ids:
            return False
        if self.error_code is not None and letter.error_code.upper() != self.error_code:
            return False
        if self.failed_before or self.failed_after:
            if letter.failed_at is None:
                return False
            if self.failed_before and letter.failed_at > self.failed_before:
                return False
            if self.failed_after and letter.failed_at < self.failed_after:
                return False
        return self.not_replayed_by is None or letter.replay_id != self.not_replayed_by


def read_dead_letter(queue: str, delivery: Delivery) -> DeadLetter:
    """What a message in a queue of dead letters says of itself."""
    properties = delivery.header.properties
    headers = properties.headers or {}
    code, detail, failed_at = _reason(queue, headers)
    replays = headers.get(REPLAY_COUNT_HEADER)
    errors = headers.get(REPLAYED_ERRORS_HEADER)
    return DeadLetter(
        queue=queue,
        message_id=properties.message_id,
        error_code=code[:CODE_CHARS_MAX],
        error_detail=detail[:DETAIL_CHARS_MAX],
        failed_at=failed_at or properties.timestamp,
        event_type=properties.message_type or delivery.routing_key or "",
        size_bytes=len(delivery.body),
        replays=replays if isinstance(replays, int) and replays >= 0 else 0,
        replayed_errors=[_text(each) for each in errors] if isinstance(errors, list) else [],
        replay_id=_text(headers.get(REPLAY_ID_HEADER)) or None,
    )


def _reason(queue: str, headers: FieldTable) -> tuple[str, str, datetime | None]:
    """The code, the detail and the time of a failure, as the worker or RabbitMQ wrote them.

    The worker removes `x-death`. If there is one, RabbitMQ wrote it after the worker, and `x-error-*` is a forgery.
    An unroutable message has passed through neither.
    """
    if queue == names.UNROUTABLE_QUEUE:
        return (
            UNROUTABLE,
            "no queue was bound to its routing key",
            _time_of_ms(headers.get(names.TIMESTAMP_HEADER)),
        )
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    reason = death.get("reason") or headers.get("x-last-death-reason") or headers.get("x-first-death-reason")
    if reason:
        died_at = death.get("time")
        detail = f"RabbitMQ took it out of {_text(death.get('queue')) or 'its queue'}: {_text(reason)}"
        return _text(reason).upper(), detail, died_at if isinstance(died_at, datetime) else None
    return (
        _text(headers.get(names.ERROR_CODE_HEADER)) or UNKNOWN,
        _text(headers.get(names.ERROR_DETAIL_HEADER)),
        _time(_text(headers.get(names.FAILED_AT_HEADER))),
    )


def _time_of_ms(value: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(value / 1_000, UTC) if isinstance(value, int) else None
    except (ValueError, OverflowError, OSError):
        return None


def _text(value: object) -> str:
    """A header as text; pamqp returns bytes if it is not UTF-8."""
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="backslashreplace")
    return value if isinstance(value, str) else ""


def _time(text: str) -> datetime | None:
    try:
        time_ = datetime.fromisoformat(text)
        return (time_ if time_.tzinfo else time_.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
