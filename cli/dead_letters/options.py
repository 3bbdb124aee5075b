"""The options of the commands on dead letters, and the selection that they describe."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from pydantic import TypeAdapter, ValidationError

from cli.console import Exit, fail
from cli.dead_letters.letter import Selection
from cli.dead_letters.queues import QUEUES
from cli.times import age_option
from schema import names
from schema.events import EVENTS
from schema.fields import Prose
from schema.limits import REASON_CHARS_MAX

RATE_MIN: Final = 0.01
RATE_MAX: Final = 10_000

_CODE: Final = re.compile(r"[A-Z0-9_]{1,64}", re.ASCII)


def _queue(text: str) -> str:
    known = {name: queue for queue in QUEUES for name in (queue, queue.removeprefix("export-runs."))}
    known |= {event_type: names.dead_letter_queue(event_type) for event_type in EVENTS}
    if text not in known:
        raise typer.BadParameter(f"must be one of {', '.join((*EVENTS, *QUEUES))}")
    return known[text]


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
        help="An event type, or the name of a queue. All queues without this option.",
    ),
]
MessageIds = Annotated[
    list[str] | None,
    typer.Option("--message-id", help="Only the letter with this message id. Can be given several times."),
]
ErrorCode = Annotated[
    str | None,
    typer.Option("--error-code", parser=_code, metavar="CODE", help="Only letters that failed with this error code."),
]
OlderThan = Annotated[
    timedelta | None,
    typer.Option(
        "--older-than",
        parser=age_option,
        metavar="AGE",
        help="Only letters that failed longer ago than this: 90s, 15m, 2h, 3d.",
    ),
]
NewerThan = Annotated[
    timedelta | None,
    typer.Option(
        "--newer-than", parser=age_option, metavar="AGE", help="Only letters that failed more recently than this."
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many letters, the oldest first.")]
ToType = Annotated[
    str | None,
    typer.Option(
        "--to-type",
        parser=_event_type,
        metavar="TYPE",
        help="Publish them as this event type. Needs --queue.",
    ),
]
Rate = Annotated[
    float | None, typer.Option("--rate", parser=_rate, metavar="NUMBER", help="At most so many letters per second.")
]
Reason = Annotated[str, typer.Option("--reason", parser=_reason, metavar="TEXT", help="Why; the event log keeps it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, counts included.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per dead letter, each on a line.")]


def selection_of(
    message_ids: list[str] | None,
    error_code: str | None,
    older_than: timedelta | None,
    newer_than: timedelta | None,
    limit: int | None,
) -> Selection:
    """The selection that the options describe. Ends the command if they contradict each other."""
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
    """The queues that the option --queue names."""
    return QUEUES if queue is None else (queue,)
