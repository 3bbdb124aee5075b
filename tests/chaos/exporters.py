"""Publishers: one publishes each event until it is confirmed, the other publishes poison messages."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from tests.chaos.client import Client, properties
from tests.chaos.events import ORGANISATIONS, EventStream, OutgoingMessage
from tests.chaos.frames import malformed_properties
from tests.chaos.guard import Guard
from tests.chaos.ledger import Ledger

BATCH_EVENTS: Final = 40
RETRY_DELAY_FIRST_S: Final = 0.1
RETRY_DELAY_MAX_S: Final = 1.0
STORED_POLL_S: Final = 0.1

INVALID: Final = "INVALID_EVENT"


class SharedLock:
    """A lock that many may hold in common, or one alone."""

    def __init__(self) -> None:
        self._holders = 0
        self._is_exclusive = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold the lock together with others. Waits while somebody holds it alone."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_exclusive)
            self._holders += 1
        try:
            yield
        finally:
            async with self._changed:
                self._holders -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock alone. Waits until nobody else holds it, and lets nobody in."""
        async with self._changed:
            self._is_exclusive = True
            await self._changed.wait_for(lambda: not self._holders)
        try:
            yield
        finally:
            async with self._changed:
                self._is_exclusive = False
                self._changed.notify_all()


@dataclass
class Counts:
    """How much was published, and the keys of all messages."""

    events: int = 0
    duplicates: int = 0
    poison: int = 0
    attempts: int = 0
    keys: set[str] = field(default_factory=set)
    confirmed: set[str] = field(default_factory=set)
    """The keys of the good events that the broker has confirmed."""


class Publisher:
    """Publishes messages until they are confirmed. The ledger has each publish and each confirm on disk first."""

    def __init__(self, client: Client, ledger: Ledger, lock: SharedLock, random: Random, counts: Counts) -> None:
        self._client = client
        self._ledger = ledger
        self._lock = lock
        self._random = random
        self._counts = counts

    async def deliver(self, messages: Sequence[OutgoingMessage], *, skip_lock: bool = False) -> None:
        """Publish these messages, and repeat those that the broker has not confirmed, until it has confirmed all."""
        rest = list(messages)
        delay_s = RETRY_DELAY_FIRST_S
        while rest:
            if skip_lock:
                confirmed = await self._attempt(rest)
            else:
                async with self._lock.shared():
                    confirmed = await self._attempt(rest)
            rest = [message for message, done in zip(rest, confirmed, strict=True) if not done]
            if rest:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_DELAY_MAX_S)

    async def _attempt(self, messages: Sequence[OutgoingMessage]) -> list[bool]:
        ids = [self._note(message) for message in messages]
        await self._ledger.sync()
        confirmed = await asyncio.gather(*map(self._publish, messages, ids))
        for message, message_id, done in zip(messages, ids, confirmed, strict=True):
            if done:
                self._ledger.note("confirm", mid=message_id)
                if message.code is None:
                    self._counts.confirmed.add(message.key)
        await self._ledger.sync()
        return confirmed

    def _note(self, message: OutgoingMessage) -> str:
        message_id = f"{self._random.getrandbits(96):024x}"
        self._counts.attempts += 1
        first = message.key not in self._counts.keys
        fields: dict[str, object] = {}
        if first:
            self._counts.keys.add(message.key)
            self._counts.events += message.code is None
            self._counts.poison += message.code is not None
            fields["type"] = message.event_type
            if message.code:
                fields |= {"code": message.code, "b64": base64.b64encode(message.body).decode()}
            else:
                fields["body"] = message.body.decode()
        self._ledger.note("publish", mid=message_id, key=message.key, **fields)
        return message_id

    async def _publish(self, message: OutgoingMessage, message_id: str) -> bool:
        if message.is_malformed:
            message_properties = malformed_properties(message_id, self._random)
        else:
            type_property = message.type_property or message.event_type
            message_properties = properties(message_id=message_id, message_type=type_property)
        return await self._client.publish("export-runs.events", message.event_type, message.body, message_properties)


async def export(
    publisher: Publisher,
    stream: EventStream,
    rate: float,
    stopping: asyncio.Event,
    note_export: Callable[[dict[str, Any]], None],
) -> None:
    """Publish `rate` events per second until `stopping` is set, then the events that still wait.

    `note_export` is told each run-finished that was confirmed.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not stopping.is_set():
        size = stream.random.randint(1, BATCH_EVENTS)
        batch = [stream.next() for _ in range(size)]
        await publisher.deliver(batch)
        for message in batch:
            if message.event_type == "run-finished":
                note_export(json.loads(message.body))
        # After an outage, the rate is not raised to catch up.
        due = max(due + size / rate, loop.time() - 1)
        await asyncio.sleep(max(0.0, due - loop.time()))
    await publisher.deliver(stream.rest())


class PoisonPublisher:
    """Publishes messages that must end in a dead-letter queue."""

    def __init__(self, publisher: Publisher, guard: Guard, stream: EventStream, *, malformed_frames: bool) -> None:
        self._publisher = publisher
        self._guard = guard
        self._stream = stream
        self._malformed_frames = malformed_frames

    async def run(self, pause_s: float, stopping: asyncio.Event) -> None:
        """Publish poison messages until `stopping` is set, with pauses of about `pause_s`."""
        kinds = [
            self._undecodable,
            self._invalid,
            self._contradicting_type,
            self._reused_id,
            self._foreign_run,
        ]
        while not stopping.is_set():
            await self._stream.random.choice(kinds)()
            await asyncio.sleep(pause_s * self._stream.random.uniform(0.5, 1.5))

    async def _undecodable(self) -> None:
        whole = json.dumps(self._stream.created()).encode()
        name = self._stream.uuid().encode()
        bodies = [
            b"not JSON " + name,
            whole[:-1],
            whole.replace(b"eventId", b"event\xff"),
            b"[" * 5_000 + name,
        ]
        await self._poison(self._stream.random.choice(bodies), INVALID)

    async def _invalid(self) -> None:
        stream = self._stream
        wrong: list[dict[str, object]] = [
            {"claimIds": "claim-1"},
            {"claimIds": ["claim-\0"]},
            {"schemaVersion": 2},
            {"occurredAt": "2026-01-01T00:00:00"},
            {"orgId": " "},
            {"status": "pending"},
            {"runId": 7},
            {"artifact": {"key": "k", "sha256": "s", "sizeBytes": 2**63}},
        ]
        body = json.dumps(stream.finished(**stream.random.choice(wrong))).encode()
        await self._poison(body, INVALID, event_type="run-finished")

    async def _contradicting_type(self) -> None:
        body = json.dumps(self._stream.created()).encode()
        await self._poison(body, "TYPE_MISMATCH", type_property="run-finished")

    async def _reused_id(self) -> None:
        first = await self._stored_run()
        stream, ids = self._stream, {name: first[name] for name in ("eventId", "runId", "orgId")}
        if stream.random.random() < 0.5:
            twin, event_type = stream.created(**ids, triggeredBy="mallory"), "run-created"
        else:
            twin, event_type = stream.finished(**ids), "run-finished"
        await self._poison(json.dumps(twin).encode(), "EVENT_ID_REUSED", event_type=event_type)

    async def _foreign_run(self) -> None:
        first = await self._stored_run()
        stream = self._stream
        org = stream.random.choice([org for org in ORGANISATIONS if org != first["orgId"]])
        if stream.random.random() < 0.5:
            twin, event_type = stream.created(runId=first["runId"], orgId=org), "run-created"
        else:
            twin, event_type = stream.finished(runId=first["runId"], orgId=org), "run-finished"
        await self._poison(json.dumps(twin).encode(), "RUN_OF_OTHER_ORGANISATION", event_type=event_type)

    async def _stored_run(self) -> dict[str, str]:
        """A run-created that is certainly stored. So the next event, which contradicts it, is the poison message."""
        created = self._stream.created()
        await self._publisher.deliver([self._stream.outgoing(created, "run-created")])
        while await self._guard.run(created["runId"]) is None:
            await asyncio.sleep(STORED_POLL_S)
        return created

    async def _poison(
        self, body: bytes, code: str, event_type: str = "run-created", type_property: str | None = None
    ) -> None:
        # Properties that cannot be decoded have no type, so they cannot have the wrong one.
        is_malformed = self._malformed_frames and type_property is None and self._stream.random.random() < 0.2
        message = OutgoingMessage(
            f"poison-{self._stream.uuid()}",
            event_type,
            body,
            code=code,
            type_property=type_property,
            is_malformed=is_malformed,
        )
        await self._publisher.deliver([message])
