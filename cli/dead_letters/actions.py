"""What an operator does with dead letters: replay them, or discard them.

A command can be killed half way and repeated: a dead letter leaves its queue only after RabbitMQ has confirmed its
new message, or after the database has committed why it was discarded.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import aio_pika
from pamqp.common import FieldArray, FieldTable

from cli.broker import Unreachable, broker_errors
from cli.dead_letters.letter import (
    REPLAY_COUNT_HEADER,
    REPLAY_ID_HEADER,
    REPLAYED_ERRORS_HEADER,
    DeadLetter,
    Selection,
)
from cli.dead_letters.queues import QueueBrowser, QueueCounts
from handlers.discards import Discard, log_discard
from schema import names
from schema.errors import DeadLetterCode
from schema.events import EVENTS
from sql.connection import Connection
from worker.broker.deliveries import Delivery
from worker.broker.publisher import Publisher
from worker.events.dead_letters import PUBLISHERS_HEADER, message_copy, trusted_headers

REPLAYED_ERRORS_MAX: Final = 10
REPLAYED_ERROR_CHARS_MAX: Final = 300

PUBLISHERS_MAX: Final = 20
PUBLISHER_CHARS_MAX: Final = 255
"""RabbitMQ's own bound on the name of a user."""

PUBLISH_TIMEOUT_S: Final = 15

LOG_TIMEOUT_S: Final = 60
"""To log one discard; its body may have megabytes."""


class Action(Protocol):
    """What is done with a dead letter before it leaves its queue."""

    def obstacle(self, letter: DeadLetter, delivery: Delivery) -> str | None:
        """Why this letter has to stay in its queue, or None."""

    async def apply(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Make the effect durable. Raises Unreachable, or what asyncpg raises."""


@dataclass(slots=True)
class ActionReport:
    """What an action has done so far, or would have done in a dry run."""

    applied: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Dead letters, by queue and error code."""

    left: int = 0
    obstacles: set[str] = field(default_factory=set)
    """How many selected letters stay in their queues, and why."""


async def apply_action(
    action: Action,
    browser: QueueBrowser,
    counts: Sequence[QueueCounts],
    selection: Selection,
    report: ActionReport,
    on_progress: Callable[[], None],
    *,
    dry_run: bool,
) -> None:
    """Apply an action to the selected dead letters, one by one. Raises Unreachable, or what the action raises.

    `report` is up to date at every moment, for a command that is interrupted; `on_progress` is called after each
    letter.
    """
    async for letter, delivery in browser.letters(counts, selection):
        obstacle = action.obstacle(letter, delivery)
        if obstacle is not None:
            report.obstacles.add(obstacle)
        else:
            if not dry_run:
                await action.apply(letter, delivery)
                await browser.settle(letter, delivery)
            report.applied[letter.queue, letter.error_code] += 1
        on_progress()


class ReplayAction:
    """Publishes dead letters again, one at a time: only then can a message that RabbitMQ returns be told apart.

    To publish a dead letter twice does no harm: its event counts once. A letter that fails again arrives with the
    number of its replays and its earlier errors. Without a publisher the action can only name obstacles.
    """

    def __init__(
        self,
        publisher: Publisher | None,
        replay_id: str,
        to_type: str | None,
        rate_per_s: float | None,
        user_id: str | None,
        *,
        chosen: bool,
    ) -> None:
        """`chosen`: the command names the letters that it replays, or their error code, and so vouches for them."""
        self._user_id = user_id
        self._is_chosen = chosen
        self._replay_id = replay_id
        self._publisher = publisher
        self._to_type = to_type
        self._pause_s = 1 / rate_per_s if rate_per_s else 0.0
        self._next_at_s = 0.0

    def obstacle(self, letter: DeadLetter, delivery: Delivery) -> str | None:
        """An event of an unknown type would be unroutable again, and one that its publisher may not write would be
        written by whoever replays it."""
        if letter.error_code == DeadLetterCode.ORGANISATION_NOT_ALLOWED and not self._is_chosen:
            return (
                f"{letter.error_code}: their publishers may not write for these organisations; replay one by "
                "--message-id, or all by --error-code, if you answer for them"
            )
        routing_key = self._routing_key(letter, delivery)
        return None if routing_key in EVENTS else f"no queue takes the routing key {routing_key!r}"

    async def apply(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Publish the letter; returns once RabbitMQ has confirmed it. Raises Unreachable."""
        assert self._publisher is not None
        await self._keep_pace()
        message, routing_key = self._message(letter, delivery), self._routing_key(letter, delivery)
        with broker_errors():
            confirmed = await self._publisher.publish(names.EVENTS_EXCHANGE, routing_key, message, PUBLISH_TIMEOUT_S)
        if not confirmed:
            raise Unreachable(
                "RabbitMQ does not take the event: its queue is full, or RabbitMQ is short of memory or disk"
            )

    def _routing_key(self, letter: DeadLetter, delivery: Delivery) -> str:
        """The routing key that the event was published with, or should have been."""
        if self._to_type is not None:
            return self._to_type
        for event_type in EVENTS:
            if letter.queue == names.dead_letter_queue(event_type):
                return event_type
        return delivery.routing_key or ""

    async def _keep_pace(self) -> None:
        now_s = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._next_at_s - now_s))
        self._next_at_s = max(self._next_at_s, now_s) + self._pause_s

    def _message(self, letter: DeadLetter, delivery: Delivery) -> aio_pika.Message:
        properties = delivery.header.properties
        failed_at = letter.failed_at.isoformat(timespec="seconds") if letter.failed_at else "at an unknown time"
        error = f"{failed_at} {letter.error_code}: {letter.error_detail}"
        errors = [*letter.replayed_errors, error][-REPLAYED_ERRORS_MAX:]
        headers: FieldTable = {
            **trusted_headers(properties.headers or {}),
            REPLAY_COUNT_HEADER: letter.replays + 1,
            REPLAYED_ERRORS_HEADER: [each[:REPLAYED_ERROR_CHARS_MAX] for each in errors],
            REPLAY_ID_HEADER: self._replay_id,
        }
        if self._is_chosen:
            headers.pop(PUBLISHERS_HEADER, None)
        elif letter.error_code not in set(DeadLetterCode):  # RabbitMQ moved it, and no worker has checked it
            headers[PUBLISHERS_HEADER] = _publishers(delivery)
        return message_copy(delivery, headers, self._to_type or properties.message_type, self._user_id)


def _publishers(delivery: Delivery) -> FieldArray:
    """Who has published an event so far, the last one at the end: its exporter, and whoever has replayed it."""
    properties = delivery.header.properties
    before = (properties.headers or {}).get(PUBLISHERS_HEADER)
    last = properties.user_id or ""
    texts = [each for each in before if isinstance(each, str) and each != last] if isinstance(before, list) else []
    publishers: FieldArray = [*(text[:PUBLISHER_CHARS_MAX] for text in texts), last]
    return publishers[-PUBLISHERS_MAX:]


class DiscardAction:
    """Records dead letters, and why they are discarded, in the event log. Without a connection it does nothing."""

    def __init__(self, connection: "Connection | None", reason: str, discarded_by: str) -> None:
        self._connection = connection
        self._reason = reason
        self._discarded_by = discarded_by

    def obstacle(self, letter: DeadLetter, delivery: Delivery) -> str | None:
        """None: every letter can be discarded."""
        return None

    async def apply(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Record the letter; returns once that is committed. Raises what asyncpg raises."""
        assert self._connection is not None
        entry = Discard(
            queue=letter.queue,
            message_id=letter.message_id,
            error_code=letter.error_code,
            error_detail=letter.error_detail,
            failed_at=letter.failed_at,
            reason=self._reason,
            discarded_by=self._discarded_by,
            body=delivery.body,
        )
        async with asyncio.timeout(LOG_TIMEOUT_S):
            await log_discard(self._connection, entry)


async def check_event_queues(browser: QueueBrowser) -> None:
    """Raises Unreachable if an event queue is missing: a message published for it would be unroutable."""
    for event_type in EVENTS:
        await browser.count(names.event_queue(event_type))
