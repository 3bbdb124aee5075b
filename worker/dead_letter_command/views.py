"""Dead letters as a person reads them, and as a script does.

What is in them comes from anywhere: nothing of it may reach a terminal as a control sequence.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from pydantic_core import to_json
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.amqp import Delivery
from worker.dead_letter_command.box import Tally
from worker.dead_letter_command.facts import DeadLetter

BODY_SHOWN_CHARS_MAX: Final = 20_000
"""A person reads no more; --json has it all."""

DETAIL_LISTED_CHARS_MAX: Final = 200
UUID_CHARS: Final = 36

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

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def show_list(console: Console, tallies: Sequence[Tally], letters: Sequence[DeadLetter]) -> None:
    """A table a queue, and what there is in each."""
    for tally in tallies:
        listed = [letter for letter in letters if letter.queue == tally.queue]
        if listed:
            table = Table(title=tally.queue, title_justify="left")
            short = all(len(letter.message_id or "") <= UUID_CHARS for letter in listed)
            table.add_column("message id", overflow="fold", no_wrap=short)
            table.add_column("error code, detail", overflow="fold")
            table.add_column("failed at (UTC)")
            table.add_column("type", overflow="fold")
            table.add_column("bytes", justify="right")
            table.add_column("replays", justify="right")
            for letter in listed:
                table.add_row(*map(Text, _cells(letter)))
            console.print(table)


def summaries(tallies: Sequence[Tally]) -> Iterator[str]:
    """A line a queue: how many dead letters it has, how old the oldest is, and what was listed of it."""
    now = datetime.now(UTC)
    for tally in tallies:
        line = f"{tally.queue}: {tally.waiting:,} dead letters"
        whole = tally.looked_at >= tally.waiting
        if tally.oldest is not None:
            line += f", the oldest{'' if whole else ' looked at'} from {age(now - tally.oldest)} ago"
        if tally.selected < tally.waiting:
            line += f"; {tally.selected:,} listed"
        if not whole:
            line += f", {tally.waiting - tally.looked_at:,} not looked at (--limit)"
        yield line


def show_letter(console: Console, letter: DeadLetter, delivery: Delivery) -> None:
    """One dead letter, whole."""
    facts = as_json(letter, delivery, with_body=False)
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    properties, headers = facts.pop("properties"), facts.pop("headers")
    for prefix, group in (("", facts), ("property ", properties), ("header ", headers)):
        for name, value in group.items():
            if value not in (None, "", []):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                table.add_row(Text(printable(prefix + name)), Text(printable(text)))
    console.print(table)
    text, is_cut = body_text(delivery.body)
    console.print(Text(text), soft_wrap=True)
    if is_cut:
        console.print("... and so on; --json has it whole")


def as_json(letter: DeadLetter, delivery: Delivery, *, with_body: bool = True) -> dict[str, Any]:
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


def body_text(body: bytes) -> tuple[str, bool]:
    """A body to look at, and whether it was cut: JSON on many lines, to the letter; the rest with escapes."""
    try:
        json.loads(body)
        text = "".join(_first_chars(_indented(body.decode())))
    except (ValueError, RecursionError):
        # A character has up to four bytes.
        text = body[: 4 * (BODY_SHOWN_CHARS_MAX + 1)].decode(errors="backslashreplace")
    return printable(text[:BODY_SHOWN_CHARS_MAX], keep="\n\t"), len(text) > BODY_SHOWN_CHARS_MAX


def printable(text: str, keep: str = "") -> str:
    """Text without anything that a terminal obeys, or that cannot be seen."""
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def age(span: timedelta) -> str:
    """A span of time in its two largest units, such as `3d 4h`."""
    total_s = max(0, int(span.total_seconds()))
    for (unit, seconds), (smaller_unit, smaller_seconds) in pairwise(_UNITS):
        if total_s >= seconds:
            return f"{total_s // seconds}{unit} {total_s % seconds // smaller_seconds}{smaller_unit}"
    return f"{total_s}s"


def _cells(letter: DeadLetter) -> Iterator[str]:
    yield printable(letter.message_id or "-")
    detail = letter.error_detail[:DETAIL_LISTED_CHARS_MAX]
    yield printable(f"{letter.error_code}\n{detail}".rstrip(), keep="\n")
    yield f"{letter.failed_at:%Y-%m-%d %H:%M:%S}" if letter.failed_at else "-"
    yield printable(letter.event_type)
    yield f"{letter.size_bytes:,}"
    yield str(letter.replays)


def _plain(table: dict[str, Any]) -> Any:
    """Properties and headers as JSON can hold them."""
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
    """As many parts as can be shown, and one more."""
    chars = 0
    for part in parts:
        yield part
        chars += len(part)
        if chars > BODY_SHOWN_CHARS_MAX:
            return
