"""Logs: one line per event, as JSON, or as text for a terminal.

A line has an event name and what the event is about (`run_id`, `event_id`, `operation`, `correlation_id`). It never
has a payload, a claim id, or a URL with its password. Of an exception it has the type and the place.

Text from outside is made safe for a terminal. A terminal obeys control characters; bidirectional and zero-width
characters make two different ids look the same.

A failure that repeats is logged the first time, then at growing intervals, with the number of times.
"""

import asyncio
import logging
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import CoroutineType
from typing import Any, Final

import structlog

KINDS_MAX: Final = 100
"""Kinds of trouble that are remembered. RabbitMQ has not so many."""

FRAMES_MAX: Final = 20
"""Calls that are logged of one task."""

_NUMBERS: Final = re.compile(r"\d+")

_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u2d7f\u3164\ufe00-\ufe0f\uffa0\ufffc"
    "\U00010a3f\U0001107f\U00013441\U00013442\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
"""Letters, marks and signs without a shape of their own, such as U+2800, a Braille cell without dots: Python takes them
for printable."""


def configure(level: str, part: str | None = None) -> None:
    """Set up structlog for this process. Lines go to standard error, and say which `part` of a worker wrote them."""
    renderers: list[structlog.typing.Processor] = [structlog.processors.JSONRenderer()]
    if sys.stderr.isatty():
        renderers = [escape_fields, structlog.dev.ConsoleRenderer()]
    structlog.configure(
        processors=[
            *([_name_part(part)] if part else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # It writes a line at once. The parts of a worker share standard error: a line end that is written by itself
        # may come behind another part's line.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # The libraries log a lost connection several times, with tracebacks. The session logs it once.
    for library in ("aio_pika", "aiormq", "asyncio", "opentelemetry.trace"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def _name_part(part: str) -> structlog.typing.Processor:
    def add(
        logger: structlog.typing.WrappedLogger, method: str, fields: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {"part": part, **fields}

    return add


def escape_fields(
    logger: structlog.typing.WrappedLogger, method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """For a terminal: texts with escapes in place of what cannot be seen. A message id may hold anything."""
    return {name: escape_unprintable(value) if isinstance(value, str) else value for name, value in fields.items()}


def describe(error: BaseException) -> dict[str, str]:
    """An exception as fields of a log line: its type, SQLSTATE and place, never its text.

    The text of a database error may quote the values it was about.
    """
    fields = {"error": type(error).__name__}
    if sqlstate := getattr(error, "sqlstate", None):  # of PostgreSQL's errors only; asyncpg is slow to import
        fields["sqlstate"] = sqlstate
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        fields["at"] = " < ".join(f"{_place(frame.filename)}:{frame.lineno}" for frame in reversed(frames[-5:]))
    return fields


def waiting_place(task: "asyncio.Task[Any]") -> str:
    """Where a task waits, and who called whom up to there, the innermost call first: `asyncio/locks.py:213 < ...`.

    Not Task.get_stack, which has only the outermost call of a task that waits.
    """
    places: list[str] = []
    awaited: object = task.get_coro()
    while isinstance(awaited, CoroutineType):
        places.append(f"{_place(awaited.cr_code.co_filename)}:{awaited.cr_frame and awaited.cr_frame.f_lineno}")
        awaited = awaited.cr_await
    return " < ".join(reversed(places[-FRAMES_MAX:]))


def _place(file: str) -> str:
    """A file's name with its folder's: events/queue.py and requests/queue.py are two."""
    path = Path(file)
    return f"{path.parent.name}/{path.name}"


def escape_unprintable(text: str) -> str:
    """The text with an escape such as `\\x1b` or `\\u202e` in place of every character that is not plainly visible.

    Replaced are control and format characters, spaces other than U+0020, line ends, lone surrogates, and characters
    without a shape. A backslash stays as it is, so an escape can be forged; `--json` prints the exact text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char.isprintable() and not _INVISIBLE.match(char) else char.encode("unicode_escape").decode()
        for char in text
    )


@dataclass(slots=True)
class _Series:
    since_s: float
    last_s: float
    next_line_s: float
    times: int = 0


class Repetitions:
    """Which of many occurrences deserves a line. Times are those of a clock that never goes back, in seconds."""

    def __init__(self, repeat_first_s: float) -> None:
        self._repeat_first_s = repeat_first_s
        self._series: dict[str, _Series] = {}

    def note(self, kind: str, now_s: float) -> dict[str, int] | None:
        """Count an occurrence; returns the fields that its line gets besides its own, or None where it gets no line.

        Texts that differ in their numbers only are one kind. It gets a line the first time, after `repeat_first_s`,
        then each time after twice as long. A kind that did not occur for so long begins anew.
        """
        kind = _NUMBERS.sub("0", kind)
        series = self._series.get(kind)
        if series is None or now_s - series.last_s > self._repeat_first_s:
            if len(self._series) >= KINDS_MAX:
                self._series.clear()
            series = self._series[kind] = _Series(now_s, now_s, now_s)
        series.times += 1
        series.last_s = now_s
        if now_s < series.next_line_s:
            return None
        for_s = now_s - series.since_s
        series.next_line_s = now_s + max(self._repeat_first_s, for_s)
        return {"times": series.times, "for_s": round(for_s)}
