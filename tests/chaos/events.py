"""The events of the exporters: runs of several organisations, out of order, with duplicates and contradictions."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final
from uuid import UUID

Json = dict[str, Any]

ORGANISATIONS: Final = tuple(f"org-{number}" for number in range(6))
STATUSES: Final = ("completed", "completed", "completed", "partial", "failed")
CLAIMS_WINDOW: Final = 400
"""Runs carry claims from a window that moves, so that several runs carry the same claim."""

LEASED_WINDOW: Final = 12
"""There are few claims to reserve, so that several runs want the same one."""

BACKLOG_EVENTS_MAX: Final = 150
"""This many events wait to be published. The next one is chosen at random."""

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to publish until it is confirmed. A poison message has the error code of its dead letter."""

    key: str
    event_type: str
    body: bytes
    code: str | None = None
    type_property: str | None = None
    is_malformed: bool = False


class Claims:
    """The claims that runs carry at present. The guard checks them."""

    def __init__(self) -> None:
        self._head = CLAIMS_WINDOW
        self._first_leased = 0

    def draw(self, random: Random, most: int) -> list[str]:
        """Claims from the window, at most this many. The window moves."""
        self._head += 1
        numbers = {self._head - int(random.triangular(0, CLAIMS_WINDOW, 0)) for _ in range(random.randint(0, most))}
        return [f"claim-{number}" for number in sorted(numbers, key=lambda number: random.random())]

    def sample(self, random: Random, most: int) -> list[str]:
        """Claims to check: most of them were exported lately, some just now, some never."""
        numbers = [self._head + 3 - random.randrange(CLAIMS_WINDOW) for _ in range(random.randint(1, most))]
        claim_ids = sorted({f"claim-{number}" for number in numbers})
        return claim_ids + (self.draw_leased(random, 3) if random.random() < 0.3 else [])

    def draw_leased(self, random: Random, most: int) -> list[str]:
        """Claims that are reserved before they are exported, at most this many."""
        numbers = random.sample(range(LEASED_WINDOW), random.randint(1, most))
        return [f"leased-{self._first_leased + number}" for number in numbers]

    def replace_leased(self) -> None:
        """After an export: put a new claim in place of the oldest one."""
        self._first_leased += 1


class EventStream:
    """An endless, repeatable stream of events from one exporter."""

    def __init__(self, random: Random, claims: Claims) -> None:
        self.random = random
        self._claims = claims
        self._backlog: list[OutgoingMessage] = []
        self.recent_runs: list[str] = []

    def next(self) -> OutgoingMessage:
        """The next event to publish."""
        while len(self._backlog) < BACKLOG_EVENTS_MAX:
            self._backlog += self._run()
        position = self.random.randrange(len(self._backlog))
        self._backlog[position], self._backlog[-1] = self._backlog[-1], self._backlog[position]
        return self._backlog.pop()

    def rest(self) -> list[OutgoingMessage]:
        """The events that still wait."""
        rest, self._backlog = self._backlog, []
        return rest

    def uuid(self) -> str:
        """The next random uuid. The same seed gives the same uuids."""
        return str(UUID(int=self.random.getrandbits(128), version=4))

    def created(self, **fields: Any) -> Json:
        """A run-created, with these fields in place of its own."""
        random = self.random
        start = _EPOCH.date() + timedelta(days=random.randrange(300))
        optional: Json = {
            "targetSystem": random.choice(["datev", "sap", "xero"]),
            "periodStart": start.isoformat(),
            "periodEnd": (start + timedelta(days=random.randrange(31))).isoformat(),
            "retryOfRunId": self.uuid(),
            "trigger": random.choice(["manual", "scheduled", "api"]),
            "scope": random.choice(["chapter 7", "cost unit 12"]),
            "override": {"reason": f"claim_ids for, {random.randrange(9)}", "approvedBy": "carol"},
            "unknownField": {"kept": [1, None, "in the log"]},
        }
        return {
            **self._identity(),
            "triggeredBy": random.choice(["alice", "bob", "Zoë"]),
            "format": random.choice(["csv", "datev-ascii"]),
            **{name: value for name, value in optional.items() if random.random() < 0.3},
            **fields,
        }

    def finished(self, **fields: Any) -> Json:
        """A run-finished, with these fields in place of its own."""
        random = self.random
        optional: Json = {
            "skippedClaims": [
                {"claimId": claim, "reason": random.choice(["no receipt", "on hold", "currency"])}
                for claim in self._claims.draw(random, 3)
            ],
            "error": {"code": "E42", "detail": "the target system hung up"},
            "artifact": {"key": f"exports/{random.randrange(999)}", "sha256": "ab" * 32, "sizeBytes": 123},
            "externalAckId": f"ack-{random.randrange(999)}",
        }
        return {
            **self._identity(),
            "status": random.choice(STATUSES),
            "claimIds": self._claims.draw(random, 6),
            **{name: value for name, value in optional.items() if random.random() < 0.3},
            **fields,
        }

    def outgoing(self, event: Json, event_type: str, **more: Any) -> OutgoingMessage:
        """An event as a message. One in 500 has properties that cannot be decoded."""
        is_malformed = self.random.random() < 0.002
        return OutgoingMessage(
            event["eventId"], event_type, json.dumps(event).encode(), is_malformed=is_malformed, **more
        )

    def _identity(self) -> Json:
        at = _EPOCH + timedelta(milliseconds=self.random.randrange(10**9))
        return {
            "eventId": self.uuid(),
            "schemaVersion": 1,
            "occurredAt": at.isoformat(),
            "runId": self.uuid(),
            "orgId": self.random.choice(ORGANISATIONS),
        }

    def _run(self) -> list[OutgoingMessage]:
        """All events of one run, some of them twice."""
        random = self.random
        run = {"runId": self.uuid(), "orgId": random.choice(ORGANISATIONS)}
        self.recent_runs = [*self.recent_runs[-50:], run["runId"]]
        created = [self.created(**run) for _ in range(random.choices([0, 1, 2], [5, 87, 8])[0])]
        finished = [self.finished(**run) for _ in range(random.choices([0, 1, 2, 3], [6, 74, 14, 6])[0])]
        if finished and random.random() < 0.1:
            # Another event with the same content is no conflict.
            finished.append({**finished[0], "eventId": self.uuid()})
        events = [(event, "run-created") for event in created] + [(event, "run-finished") for event in finished]
        duplicates = [(self._reordered(event), kind) for event, kind in events if random.random() < 0.1]
        return [self.outgoing(event, kind) for event, kind in events + duplicates]

    def _reordered(self, event: Json) -> Json:
        """The same JSON, perhaps with its members in another order."""
        members = list(event.items())
        if self.random.random() < 0.5:
            self.random.shuffle(members)
        return dict(members)
