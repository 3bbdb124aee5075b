"""What an operator does with dead letters: have them tried again, or throw them away.

Both can be killed half way and repeated: a dead letter leaves its queue only after the broker has confirmed
its new message, or the database has committed why it was thrown away.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import aio_pika
from pamqp.common import FieldTable

from handlers.connection import Connection
from handlers.discards import Discard, log_discard
from schema import names
from schema.events import EVENTS
from worker.amqp import Delivery, Link
from worker.dead_letter_command.box import DeadLetterBox, Tally, broker_explained
from worker.dead_letter_command.facts import (
    REPLAY_COUNT_HEADER,
    REPLAY_ID_HEADER,
    REPLAYED_ERRORS_HEADER,
    DeadLetter,
    Selection,
)
from worker.dead_letters import PUBLISH_TIMEOUT_S, again, trusted_headers

REPLAYED_ERRORS_MAX: Final = 10
REPLAYED_ERROR_CHARS_MAX: Final = 300

LOG_TIMEOUT_S: Final = 60
"""For logging one discard; its body may have megabytes."""

Looked = Callable[[], None]
"""Called after each dead letter that was dealt with."""


class Tool(Protocol):
    """What is done with a dead letter before it leaves its queue."""

    def obstacle(self, letter: DeadLetter, delivery: Delivery) -> str | None:
        """Why this one has to stay where it is, or None."""

    async def treat(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Make the effect durable. Raises Unreachable, or what asyncpg raises."""


@dataclass(slots=True)
class Outcome:
    """What was done, or in a dry run would be, so far."""

    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Dead letters, by queue and error code."""

    left: int = 0
    obstacles: set[str] = field(default_factory=set)
    """How many others were left where they are, and why."""


async def work_through(
    box: DeadLetterBox,
    tallies: Sequence[Tally],
    selection: Selection,
    tool: Tool,
    outcome: Outcome,
    looked: Looked,
    *,
    dry_run: bool,
) -> None:
    """Treat the selected dead letters one by one. Raises Unreachable, or what the tool raises.

    `outcome` is kept up to date, for whoever has to say what was done before it was interrupted.
    """
    async for letter, delivery in box.letters(tallies, selection):
        obstacle = tool.obstacle(letter, delivery)
        if obstacle is not None:
            outcome.obstacles.add(obstacle)
        else:
            if not dry_run:
                await tool.treat(letter, delivery)
                await box.settle(letter, delivery)
            outcome.done[letter.queue, letter.error_code] += 1
        looked()


class Replayer:
    """Publishes dead letters again, one at a time: only so the broker's returns are told apart.

    Twice the same dead letter does no harm: the event in it counts once. One that fails again comes back with
    the number of its replays and with the errors before. Without a link it can only say what is in the way.
    """

    def __init__(self, link: Link | None, replay_id: str, to_type: str | None, rate_per_s: float | None) -> None:
        self._replay_id = replay_id
        self._link = link
        self._to_type = to_type
        self._pause_s = 1 / rate_per_s if rate_per_s else 0.0
        self._next_at_s = 0.0

    def obstacle(self, letter: DeadLetter, delivery: Delivery) -> str | None:
        """An event of no known type would only come back."""
        routing_key = self._routing_key(letter, delivery)
        return None if routing_key in EVENTS else f"no queue takes the routing key {routing_key!r}"

    async def treat(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Publish; returns once the broker has confirmed it. Raises Unreachable."""
        assert self._link is not None
        await self._keep_pace()
        exchange = await self._link.channel.get_exchange(names.EVENTS_EXCHANGE, ensure=False)
        with broker_explained():
            await exchange.publish(
                self._message(letter, delivery),
                self._routing_key(letter, delivery),
                mandatory=True,
                timeout=PUBLISH_TIMEOUT_S,
            )

    def _routing_key(self, letter: DeadLetter, delivery: Delivery) -> str:
        """What the event was published with, or should have been."""
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
        failed_at = letter.failed_at.isoformat(timespec="seconds") if letter.failed_at else "some time"
        error = f"{failed_at} {letter.error_code}: {letter.error_detail}"
        errors = [*letter.replayed_errors, error][-REPLAYED_ERRORS_MAX:]
        headers: FieldTable = {
            **trusted_headers(properties.headers or {}),
            REPLAY_COUNT_HEADER: letter.replays + 1,
            REPLAYED_ERRORS_HEADER: [each[:REPLAYED_ERROR_CHARS_MAX] for each in errors],
            REPLAY_ID_HEADER: self._replay_id,
        }
        return again(delivery, headers, self._to_type or properties.message_type)


class Discarder:
    """Logs dead letters, and why they are thrown away. Without a connection it does nothing."""

    def __init__(self, connection: "Connection | None", reason: str, discarded_by: str) -> None:
        self._connection = connection
        self._reason = reason
        self._discarded_by = discarded_by

    def obstacle(self, letter: DeadLetter, delivery: Delivery) -> str | None:
        """None: everything can be thrown away."""
        return None

    async def treat(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Log it; returns once that is committed. Raises what asyncpg raises."""
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


async def check_event_queues(box: DeadLetterBox) -> None:
    """Raises Unreachable where an event queue is missing: what is published for it would be unroutable."""
    for event_type in EVENTS:
        await box.count(names.event_queue(event_type))
