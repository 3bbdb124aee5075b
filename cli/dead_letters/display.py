"""Dead letters, printed for a person or for a script."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_core import to_json

from cli.dead_letters.actions import ActionReport
from cli.dead_letters.letter import DeadLetter
from cli.dead_letters.queues import QueueCounts
from cli.terminal import Column, ResultTable, Terminal
from cli.times import age_text, time_text
from schema.fields import counted
from worker.broker.deliveries import Delivery

BODY_SHOWN_CHARS_MAX: Final = 20_000
"""A person reads no more than this; --json prints the whole body."""

DETAIL_LISTED_CHARS_MAX: Final = 200

OBSTACLES_LISTED_MAX: Final = 10

_PROPERTIES: Final = (
    "content_type",
    "content_encoding",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "message_type",
    "user_id",
    "app_id",
    "cluster_id",
)

_JSON_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def show_list(terminal: Terminal, counts: Sequence[QueueCounts], letters: Sequence[DeadLetter]) -> None:
    """Print one table of dead letters per queue."""
    for queue in counts:
        table = ResultTable(
            (Column("message id"), Column("type")),
            (Column("error code"), Column("detail")),
            (Column("failed at (UTC)", is_whole=True),),
            (Column("bytes", is_number=True), Column("replays", is_number=True)),
            title=queue.queue,
        )
        for letter in letters:
            if letter.queue == queue.queue:
                table.add_row(
                    letter.message_id or "-",
                    letter.event_type,
                    letter.error_code,
                    letter.error_detail[:DETAIL_LISTED_CHARS_MAX],
                    time_text(letter.failed_at),
                    f"{letter.size_bytes:,}",
                    f"{letter.replays:,}",
                )
        if table.rows:
            terminal.print_table(table)


def summaries(counts: Sequence[QueueCounts]) -> Iterator[str]:
    """One line per queue: how many dead letters it has, how old the oldest is, how many were listed."""
    now = datetime.now(UTC)
    for queue in counts:
        line = f"{queue.queue}: {counted(queue.ready + queue.held_by_others, 'dead letter')}"
        if queue.held_by_others:
            line += f", {queue.held_by_others:,} of them held by another command or consumer"
        is_whole = queue.read >= queue.ready
        if queue.read:
            line += f", the oldest{'' if is_whole else ' that was read'}: {_age(queue, now)}"
        if queue.selected < queue.ready:
            line += f"; {queue.selected:,} listed"
        if not is_whole:
            line += f", {queue.ready - queue.read:,} not read (--limit)"
        yield line


def show_letter(terminal: Terminal, letter: DeadLetter, delivery: Delivery) -> None:
    """Print one dead letter with its body."""
    facts = letter_json(letter, delivery, with_body=False)
    properties, headers = facts.pop("properties"), facts.pop("headers")
    fields = {}
    for prefix, group in (("", facts), ("property ", properties), ("header ", headers)):
        for name, value in group.items():
            if value not in (None, "", []):
                fields[prefix + name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    terminal.print_fields(fields)
    text, is_cut = body_text(delivery.body)
    terminal.print_text(text)
    if is_cut:
        terminal.print_line("... the rest of the body is cut off; --json prints all of it")


def letter_json(letter: DeadLetter, delivery: Delivery, *, with_body: bool = True) -> dict[str, Any]:
    """One dead letter with its routing, its properties and headers, and its body."""
    properties = delivery.header.properties
    facts: dict[str, Any] = {
        **letter.model_dump(mode="json"),
        "exchange": delivery.exchange,
        "routingKey": delivery.routing_key,
        "properties": _plain({name: getattr(properties, name) for name in _PROPERTIES}),
        "headers": _plain(properties.headers or {}),
    }
    if with_body:
        try:
            facts |= {"bodyEncoding": "utf-8", "body": delivery.body.decode()}
        except UnicodeDecodeError:
            facts |= {"bodyEncoding": "base64", "body": base64.b64encode(delivery.body).decode()}
    return facts


def list_json(counts: Sequence[QueueCounts], letters: Sequence[DeadLetter]) -> dict[str, Any]:
    """The list of dead letters, and the counts of their queues."""
    return {
        "queues": [
            {
                "queue": queue.queue,
                "ready": queue.ready,
                "heldByOthers": queue.held_by_others,
                "read": queue.read,
                "listed": queue.selected,
                "undated": queue.undated,
                "oldestFailedAt": queue.oldest and queue.oldest.isoformat(),
            }
            for queue in counts
        ],
        "deadLetters": [letter.model_dump(mode="json") for letter in letters],
    }


def show_report(terminal: Terminal, report: ActionReport, verb: str, *, dry_run: bool) -> None:
    """Print how many dead letters an action was applied to, by queue and error code."""
    did = f"would {verb}" if dry_run else f"{verb}ed"
    terminal.print_line(f"{did} {counted(report.applied.total(), 'dead letter')}")
    for (queue, code), count in sorted(report.applied.items()):
        terminal.print_line(f"  {queue}: {count:,} {code}")


def report_json(report: ActionReport, verb: str, *, dry_run: bool) -> dict[str, Any]:
    """How many dead letters an action was applied to, by queue and error code, and how many it left."""
    return {
        "action": verb,
        "dryRun": dry_run,
        "count": report.applied.total(),
        "counts": [
            {"queue": queue, "errorCode": code, "count": count}
            for (queue, code), count in sorted(report.applied.items())
        ],
        "left": report.left,
        "obstacles": sorted(report.obstacles)[:OBSTACLES_LISTED_MAX],
    }


def obstacles_text(report: ActionReport) -> str:
    """How many dead letters an action left where they are, and why."""
    obstacles = sorted(report.obstacles)
    listed = "; ".join(obstacles[:OBSTACLES_LISTED_MAX])
    more = len(obstacles) - OBSTACLES_LISTED_MAX
    return f"left {report.left:,}: {listed}" + (f"; and {counted(more, 'more reason')}" if more > 0 else "")


def body_text(body: bytes) -> tuple[str, bool]:
    """A body as text to read, and whether it was cut. JSON is indented and otherwise unchanged."""
    try:
        json.loads(body)
        text = "".join(_first_chars(_indented(body.decode())))
    except (ValueError, RecursionError):
        # A character has up to four bytes.
        text = body[: 4 * (BODY_SHOWN_CHARS_MAX + 1)].decode(errors="backslashreplace")
    return text[:BODY_SHOWN_CHARS_MAX], len(text) > BODY_SHOWN_CHARS_MAX


def held_text(counts: Sequence[QueueCounts]) -> str:
    """What to say of messages that a command could not reach; nothing if there are none."""
    held = sum(queue.held_by_others for queue in counts)
    return f"another command or consumer holds {counted(held, 'dead letter')}, not looked at" if held else ""


def _age(queue: QueueCounts, now: datetime) -> str:
    if queue.oldest is None:
        return "age unknown"
    return f"{age_text(queue.oldest, now)} ago" + (f" ({queue.undated:,} of unknown age)" if queue.undated else "")


def _plain(table: dict[str, Any]) -> Any:
    """Properties and headers as values that JSON has."""
    try:
        return json.loads(to_json(table, bytes_mode="base64", inf_nan_mode="strings", serialize_unknown=True))
    except (ValueError, RecursionError):
        return {"": "nested too deep to be shown"}


def _indented(text: str) -> Iterator[str]:
    """Valid JSON with line ends and indents. Numbers and repeated names stay as they are."""
    depth = 0
    last = ""
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        if token in ("]", "}"):
            depth -= 1
            # Empty brackets stay together.
            yield token if last in ("[", "{") else f"\n{'  ' * depth}{token}"
        elif token == ":":
            yield ": "
        elif token == ",":
            yield ","
        else:
            yield f"\n{'  ' * depth}{token}" if last in ("[", "{", ",") else token
            depth += token in ("[", "{")
        last = token


def _first_chars(parts: Iterable[str]) -> Iterator[str]:
    """As many parts as are shown, and one more."""
    chars = 0
    for part in parts:
        yield part
        chars += len(part)
        if chars > BODY_SHOWN_CHARS_MAX:
            return
