"""What the exporters have to tell: runs of several organisations, out of order, twice, and contradicting."""

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
"""Runs carry claims out of a window that moves on, so that several runs carry the same claim."""

LEASED_WINDOW: Final = 12
"""Few, so that those who reserve them meet."""

HELD_BACK_MAX: Final = 150
"""Events that wait for their turn, which is drawn by lot."""

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish until it is confirmed. `code` is why it must be dead-lettered, if it must."""

    key: str
    event_type: str
    body: bytes
    code: str | None = None
    said_type: str | None = None
    malformed: bool = False


class Claims:
    """The claims that runs carry at present; the guard asks for them."""

    def __init__(self) -> None:
        self._head = CLAIMS_WINDOW
        self._first_leased = 0

    def draw(self, random: Random, most: int) -> list[str]:
        """A few claims out of the window, which moves on."""
        self._head += 1
        numbers = {self._head - int(random.triangular(0, CLAIMS_WINDOW, 0)) for _ in range(random.randint(0, most))}
        return [f"claim-{number}" for number in sorted(numbers, key=lambda number: random.random())]

    def ask(self, random: Random, most: int) -> list[str]:
        """A few claims worth asking for: most were exported lately, some just now, some never."""
        asked = {f"claim-{self._head + 3 - random.randrange(CLAIMS_WINDOW)}" for _ in range(random.randint(1, most))}
        return sorted(asked) + (self.draw_leased(random, 3) if random.random() < 0.3 else [])

    def draw_leased(self, random: Random, most: int) -> list[str]:
        """A few claims of those that are reserved before they are exported."""
        numbers = random.sample(range(LEASED_WINDOW), random.randint(1, most))
        return [f"leased-{self._first_leased + number}" for number in numbers]

    def replace_leased(self) -> None:
        """Some were exported: have one that nobody knows in place of the oldest."""
        self._first_leased += 1


class Story:
    """An endless, repeatable stream of events from one exporter."""

    def __init__(self, random: Random, claims: Claims) -> None:
        self.random = random
        self._claims = claims
        self._held_back: list[Outgoing] = []
        self.recent_runs: list[str] = []

    def next(self) -> Outgoing:
        """The next event to publish."""
        while len(self._held_back) < HELD_BACK_MAX:
            self._held_back += self._run()
        position = self.random.randrange(len(self._held_back))
        self._held_back[position], self._held_back[-1] = self._held_back[-1], self._held_back[position]
        return self._held_back.pop()

    def rest(self) -> list[Outgoing]:
        """What was held back."""
        rest, self._held_back = self._held_back, []
        return rest

    def uuid(self) -> str:
        """A repeatable uuid."""
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
            "override": {"reason": f"asked for, {random.randrange(9)}", "approvedBy": "carol"},
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

    def outgoing(self, event: Json, event_type: str, **more: Any) -> Outgoing:
        """An event as a message; now and then with properties that cannot be decoded."""
        malformed = self.random.random() < 0.002
        return Outgoing(event["eventId"], event_type, json.dumps(event).encode(), malformed=malformed, **more)

    def _identity(self) -> Json:
        at = _EPOCH + timedelta(milliseconds=self.random.randrange(10**9))
        return {
            "eventId": self.uuid(),
            "schemaVersion": 1,
            "occurredAt": at.isoformat(),
            "runId": self.uuid(),
            "orgId": self.random.choice(ORGANISATIONS),
        }

    def _run(self) -> list[Outgoing]:
        """All events of one run, some of them twice."""
        random = self.random
        run = {"runId": self.uuid(), "orgId": random.choice(ORGANISATIONS)}
        self.recent_runs = [*self.recent_runs[-50:], run["runId"]]
        created = [self.created(**run) for _ in range(random.choices([0, 1, 2], [5, 87, 8])[0])]
        finished = [self.finished(**run) for _ in range(random.choices([0, 1, 2, 3], [6, 74, 14, 6])[0])]
        if finished and random.random() < 0.1:
            # Another event that says the same: no conflict.
            finished.append({**finished[0], "eventId": self.uuid()})
        told = [(event, "run-created") for event in created] + [(event, "run-finished") for event in finished]
        again = [(self._reordered(event), kind) for event, kind in told if random.random() < 0.1]
        return [self.outgoing(event, kind) for event, kind in told + again]

    def _reordered(self, event: Json) -> Json:
        """The same JSON, perhaps with its members in another order."""
        members = list(event.items())
        if self.random.random() < 0.5:
            self.random.shuffle(members)
        return dict(members)
