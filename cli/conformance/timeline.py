"""What was seen of a program in one scenario: what it published, what it was answered, what it said it did.

Every moment is in seconds of one clock that never goes back.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from pamqp.commands import Basic

from schema.decoding import InvalidBody, decode
from schema.errors import ErrorCode
from schema.events import EVENTS, RunCreated, RunFinished
from schema.fields import WireModel
from schema.names import EVENTS_EXCHANGE, RPC_EXCHANGE
from schema.operations import OPERATIONS

REQUESTS: Final[dict[str, type[WireModel]]] = {operation.name: operation.request for operation in OPERATIONS}


@dataclass(frozen=True, slots=True)
class Task:
    """What the program is asked to do in one scenario."""

    claim_ids: tuple[str, ...]
    lease_s: int = 60
    pay_s: float = 0.0
    """How long it is to take to pay one claim."""


@dataclass(slots=True)
class Publication:
    """A message that the program published. `has_confirms`: its channel was in confirm mode."""

    at_s: float
    exchange: str
    routing_key: str
    mandatory: bool
    has_confirms: bool
    properties: Basic.Properties = field(default_factory=Basic.Properties)
    body: bytes = b""
    confirmed_at_s: float | None = None
    """When the program got RabbitMQ's confirm."""

    was_cut: bool = False
    """RabbitMQ has confirmed it, and in place of the confirm the program lost its connection."""

    @property
    def message_id(self) -> str | None:
        """Its `message_id`."""
        return self.properties.message_id

    @property
    def is_event(self) -> bool:
        """Whether it was published as an event."""
        return self.exchange == EVENTS_EXCHANGE

    @property
    def is_request(self) -> bool:
        """Whether it was published as a request."""
        return self.exchange == RPC_EXCHANGE

    def event(self) -> RunCreated | RunFinished:
        """The event in its body. Raises InvalidBody."""
        return decode(EVENTS[self.routing_key], self.body)

    def event_id(self) -> str | None:
        """The `eventId` in its body, also where the rest of the body is not valid."""
        return self._id("eventId")

    def run_id(self) -> str | None:
        """The `runId` in its body, also where the rest of the body is not valid."""
        return self._id("runId")

    def _id(self, field: str) -> str | None:
        try:
            return str(UUID(json.loads(self.body)[field]))
        except (ValueError, TypeError, LookupError, AttributeError):
            return None


@dataclass(slots=True)
class Answer:
    """A request that reached the service, and what the service said; nothing, if `result` and `error` are None."""

    asked_at_s: float
    operation: str
    request: WireModel
    message_id: str | None
    is_renewal: bool = False
    """It reserves claims that its run holds already."""

    at_s: float | None = None
    """When the answer was sent."""

    result: WireModel | None = None
    error: ErrorCode | None = None
    is_lost: bool = False
    """The service says that another run has the claims of this lease now."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A line that the program printed: `paid taxi-1`."""

    at_s: float
    word: str
    claim_id: str


@dataclass(slots=True)
class Ending:
    """How a start of the program ended. `code` is None if it did not end by itself."""

    at_s: float
    code: int | None
    was_killed: bool
    """On purpose: that is what the scenario is about."""


@dataclass(slots=True)
class Timeline:
    """All that was seen in one scenario."""

    task: Task
    publications: list[Publication] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    spoken: list[Spoken] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    closings: list[str] = field(default_factory=list)
    """What RabbitMQ said when it closed a channel or a connection because of a mistake of the program."""

    def events(self) -> Iterator[Publication]:
        """What was published as an event."""
        return (each for each in self.publications if each.is_event)

    def requests(self) -> Iterator[Publication]:
        """What was published as a request."""
        return (each for each in self.publications if each.is_request)

    def ends(self) -> Iterator[tuple[Publication, RunFinished]]:
        """The `run-finished` that are valid."""
        for each in self.events():
            try:
                event = each.event()
            except (InvalidBody, KeyError):
                continue
            if isinstance(event, RunFinished):
                yield each, event

    def killed_at_s(self) -> float:
        """When the program was killed on purpose; before everything, if it was not."""
        return next((each.at_s for each in self.endings if each.was_killed), -math.inf)

    def asked(self, operation: str) -> list[Answer]:
        """The requests of one operation that reached the service."""
        return [each for each in self.answers if each.operation == operation]

    def said(self, word: str) -> list[Spoken]:
        """The lines that begin with this word."""
        return [each for each in self.spoken if each.word == word]
