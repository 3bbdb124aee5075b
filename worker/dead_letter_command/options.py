"""What the commands on dead letters are told on the command line, and which of them that means."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from pydantic import TypeAdapter, ValidationError

from schema import names
from schema.events import EVENTS
from schema.fields import Prose
from schema.limits import REASON_CHARS_MAX
from worker.console import Exit, fail
from worker.dead_letter_command.box import QUEUES
from worker.dead_letter_command.facts import Selection

AGE_DAYS_MAX: Final = 36_500
RATE_MIN: Final = 0.01
RATE_MAX: Final = 10_000

_AGE: Final = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_CODE: Final = re.compile(r"[A-Z0-9_]{1,64}", re.ASCII)


def _queue(text: str) -> str:
    known = {name: queue for queue in QUEUES for name in (queue, queue.removeprefix("export-runs."))}
    known |= {event_type: names.dead_letter_queue(event_type) for event_type in EVENTS}
    if text not in known:
        raise typer.BadParameter(f"must be one of {', '.join((*EVENTS, *QUEUES))}")
    return known[text]


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None or not (span := timedelta(**{_UNITS[match[2]]: int(match[1])})):
        raise typer.BadParameter("must be an age such as 90s, 15m, 2h or 3d")
    if span > timedelta(days=AGE_DAYS_MAX):
        raise typer.BadParameter(f"must be at most {AGE_DAYS_MAX}d")
    return span


def _code(text: str) -> str:
    if not _CODE.fullmatch(text.upper()):
        raise typer.BadParameter("must be a code such as INVALID_EVENT or DELIVERY_LIMIT")
    return text.upper()


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not RATE_MIN <= rate <= RATE_MAX:
        raise typer.BadParameter(f"must be a number from {RATE_MIN} to {RATE_MAX:,}")
    return rate


def _reason(text: str) -> str:
    try:
        reason: str = TypeAdapter(Prose).validate_python(text)
    except ValidationError:
        raise typer.BadParameter(
            f"must have 1 to {REASON_CHARS_MAX:,} characters, not be blank, and hold no control characters"
        ) from None
    return reason


def _event_type(text: str) -> str:
    if text not in EVENTS:
        raise typer.BadParameter(f"must be one of {', '.join(EVENTS)}")
    return text


QueueOption = Annotated[
    str | None,
    typer.Option(
        "--queue",
        parser=_queue,
        metavar="QUEUE",
        help="An event type or the name of a queue; all without it.",
    ),
]
MessageIds = Annotated[
    list[str] | None,
    typer.Option("--message-id", help="Only the one with this message id. May be given several times."),
]
ErrorCode = Annotated[
    str | None,
    typer.Option("--error-code", parser=_code, metavar="CODE", help="Only those that failed with this error code."),
]
OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than",
        parser=_age,
        metavar="AGE",
        help="Only those that failed longer ago: 90s, 15m, 2h, 3d.",
    ),
]
NewerThan = Annotated[
    timedelta | None,
    typer.Option("--newer-than", parser=_age, metavar="AGE", help="Only those that failed more recently."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many, the first first.")]
ToType = Annotated[
    str | None,
    typer.Option(
        "--to-type",
        parser=_event_type,
        metavar="TYPE",
        help="The event type that they should have had; needs --queue.",
    ),
]
Rate = Annotated[float | None, typer.Option("--rate", parser=_rate, metavar="NUMBER", help="At most so many a second.")]
Reason = Annotated[
    str, typer.Option("--reason", parser=_reason, metavar="TEXT", help="Why; it is kept in the event log.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def selection_of(
    message_ids: list[str] | None,
    error_code: str | None,
    older_than: timedelta | None,
    newer_than: timedelta | None,
    limit: int | None,
) -> Selection:
    """Which dead letters the options mean; ends the command where they contradict each other."""
    if message_ids and not all(message_ids):
        fail(Exit.USAGE, "--message-id: must not be empty")
    if older_than and newer_than and newer_than <= older_than:
        fail(Exit.USAGE, "--newer-than: must be longer than --older-than, or nothing is between them")
    now = datetime.now(UTC)
    return Selection(
        message_ids=frozenset(message_ids or ()),
        error_code=error_code,
        failed_before=now - older_than if older_than else None,
        failed_after=now - newer_than if newer_than else None,
        limit=limit,
    )


def queues_of(queue: str | None) -> Sequence[str]:
    """The queues to look at."""
    return QUEUES if queue is None else (queue,)
