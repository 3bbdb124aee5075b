"""Those who publish: each event again and again until it is confirmed, and poison in between."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.chaos.client import Client, properties
from tests.chaos.events import ORGANISATIONS, Outgoing, Story
from tests.chaos.frames import malformed
from tests.chaos.guard import Guard
from tests.chaos.ledger import Ledger

BATCH_EVENTS: Final = 40
RETRY_DELAY_FIRST_S: Final = 0.1
RETRY_DELAY_MAX_S: Final = 1.0
STORED_POLL_S: Final = 0.1

INVALID: Final = "INVALID_EVENT"


class Gate:
    """Lets publishers through, or holds them back: nobody is inside while it is shut."""

    def __init__(self) -> None:
        self._inside = 0
        self._shut = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Be inside, as soon as the gate is open."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._shut)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        """Let nobody in, and wait until everybody is out."""
        async with self._changed:
            self._shut = True
            await self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            async with self._changed:
                self._shut = False
                self._changed.notify_all()


@dataclass
class Counts:
    """How much was published."""

    events: int = 0
    duplicates: int = 0
    poison: int = 0
    attempts: int = 0
    known: set[str] = field(default_factory=set)


class Publisher:
    """Publishes until confirmed, and keeps the ledger: on disk before each publish and after each confirm."""

    def __init__(self, client: Client, ledger: Ledger, gate: Gate, random: Random, counts: Counts) -> None:
        self._client = client
        self._ledger = ledger
        self._gate = gate
        self._random = random
        self._counts = counts

    async def deliver(self, messages: Sequence[Outgoing], *, past_gate: bool = False) -> None:
        """Publish all of these until the broker has confirmed each."""
        waiting = list(messages)
        delay_s = RETRY_DELAY_FIRST_S
        while waiting:
            if past_gate:
                confirmed = await self._attempt(waiting)
            else:
                async with self._gate.passing():
                    confirmed = await self._attempt(waiting)
            waiting = [message for message, done in zip(waiting, confirmed, strict=True) if not done]
            if waiting:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_DELAY_MAX_S)

    async def _attempt(self, messages: Sequence[Outgoing]) -> list[bool]:
        ids = [self._note(message) for message in messages]
        await self._ledger.sync()
        confirmed = await asyncio.gather(*map(self._publish, messages, ids))
        for message_id, done in zip(ids, confirmed, strict=True):
            if done:
                self._ledger.note("confirm", mid=message_id)
        await self._ledger.sync()
        return confirmed

    def _note(self, message: Outgoing) -> str:
        message_id = f"{self._random.getrandbits(96):024x}"
        self._counts.attempts += 1
        first = message.key not in self._counts.known
        facts: dict[str, object] = {}
        if first:
            self._counts.known.add(message.key)
            self._counts.events += message.code is None
            self._counts.poison += message.code is not None
            facts["type"] = message.event_type
            if message.code:
                facts |= {"code": message.code, "b64": base64.b64encode(message.body).decode()}
            else:
                facts["body"] = message.body.decode()
        self._ledger.note("publish", mid=message_id, key=message.key, **facts)
        return message_id

    async def _publish(self, message: Outgoing, message_id: str) -> bool:
        if message.malformed:
            given = malformed(message_id, self._random)
        else:
            said = message.said_type or message.event_type
            given = properties(message_id=message_id, message_type=said)
        return await self._client.publish("export-runs.events", message.event_type, message.body, given)


async def export(publisher: Publisher, story: Story, rate: float, stopping: asyncio.Event) -> None:
    """Publish so many events a second until told to stop, then what was held back."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not stopping.is_set():
        size = story.random.randint(1, BATCH_EVENTS)
        await publisher.deliver([story.next() for _ in range(size)])
        # What an outage held up is not caught up with.
        due = max(due + size / rate, loop.time() - 1)
        await asyncio.sleep(max(0.0, due - loop.time()))
    await publisher.deliver(story.rest())


class Poisoner:
    """Publishes what must end in a dead-letter queue, and nothing else."""

    def __init__(self, publisher: Publisher, guard: Guard, story: Story, *, malformed_frames: bool) -> None:
        self._publisher = publisher
        self._guard = guard
        self._story = story
        self._malformed_frames = malformed_frames

    async def run(self, pause_s: float, stopping: asyncio.Event) -> None:
        """Publish poison until told to stop."""
        kinds = [
            self._undecodable,
            self._invalid,
            self._contradicting_type,
            self._reused_id,
            self._foreign_run,
        ]
        while not stopping.is_set():
            await self._story.random.choice(kinds)()
            await asyncio.sleep(pause_s * self._story.random.uniform(0.5, 1.5))

    async def _undecodable(self) -> None:
        whole = json.dumps(self._story.created()).encode()
        name = self._story.uuid().encode()
        bodies = [
            b"not JSON " + name,
            whole[:-1],
            whole.replace(b"eventId", b"event\xff"),
            b"[" * 5_000 + name,
        ]
        await self._poison(self._story.random.choice(bodies), INVALID)

    async def _invalid(self) -> None:
        story = self._story
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
        body = json.dumps(story.finished(**story.random.choice(wrong))).encode()
        await self._poison(body, INVALID, event_type="run-finished")

    async def _contradicting_type(self) -> None:
        body = json.dumps(self._story.created()).encode()
        await self._poison(body, "TYPE_MISMATCH", said_type="run-finished")

    async def _reused_id(self) -> None:
        first = await self._stored_run()
        story, ids = self._story, {name: first[name] for name in ("eventId", "runId", "orgId")}
        if story.random.random() < 0.5:
            twin, event_type = story.created(**ids, triggeredBy="mallory"), "run-created"
        else:
            twin, event_type = story.finished(**ids), "run-finished"
        await self._poison(json.dumps(twin).encode(), "EVENT_ID_REUSED", event_type=event_type)

    async def _foreign_run(self) -> None:
        first = await self._stored_run()
        story = self._story
        org = story.random.choice([org for org in ORGANISATIONS if org != first["orgId"]])
        if story.random.random() < 0.5:
            twin, event_type = story.created(runId=first["runId"], orgId=org), "run-created"
        else:
            twin, event_type = story.finished(runId=first["runId"], orgId=org), "run-finished"
        await self._poison(json.dumps(twin).encode(), "RUN_OF_OTHER_ORGANISATION", event_type=event_type)

    async def _stored_run(self) -> dict[str, str]:
        """A run-created that is known to be stored: whoever comes second is the poison."""
        created = self._story.created()
        await self._publisher.deliver([self._story.outgoing(created, "run-created")])
        while await self._guard.run(created["runId"]) is None:
            await asyncio.sleep(STORED_POLL_S)
        return created

    async def _poison(
        self, body: bytes, code: str, event_type: str = "run-created", said_type: str | None = None
    ) -> None:
        # Properties that cannot be decoded have no type that could contradict.
        malformed = self._malformed_frames and said_type is None and self._story.random.random() < 0.2
        message = Outgoing(
            f"poison-{self._story.uuid()}",
            event_type,
            body,
            code=code,
            said_type=said_type,
            malformed=malformed,
        )
        await self._publisher.deliver([message])
