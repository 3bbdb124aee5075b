"""Logs: one line a fact, JSON unless a person is watching.

A line has an event name and what it is bound to (`run_id`, `event_id`, `operation`, `correlation_id`). It
never has a payload, a claim, or a URL with its password; exceptions are logged by their type and place.
"""

import logging
import sys
import traceback
from pathlib import Path

import structlog
from asyncpg import PostgresError


def configure(level: str) -> None:
    """Set up structlog for this process. Lines go to standard error."""
    to_terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if to_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # The libraries report a lost connection several times over, with tracebacks; the session says it once.
    for library in ("aio_pika", "aiormq", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def describe(error: BaseException) -> dict[str, str]:
    """An exception as fields of a log line: its type, SQLSTATE and place, never its text.

    The text of a database error may quote the values it was about.
    """
    fields = {"error": type(error).__name__}
    if isinstance(error, PostgresError) and error.sqlstate:
        fields["sqlstate"] = error.sqlstate
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        fields["at"] = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-5:]))
    return fields
