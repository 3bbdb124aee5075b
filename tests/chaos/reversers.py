"""Clients that take exports back. Then some tell the end of the run again, as an exporter that heard nothing of it."""

import asyncio
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.chaos.events import EventStream
from tests.chaos.exporters import Publisher
from tests.chaos.guard import Guard

Json = dict[str, Any]

EXPORTS_KEPT: Final = 200
PAUSE_S: Final = 0.3
LATE_EVENT_SHARE: Final = 0.5
LATE_EVENT_S: Final = 1.0
"""So long after the confirm of a late event its claims are checked."""


@dataclass(frozen=True, slots=True)
class Export:
    """Claims that a run has exported, by an event that the broker has confirmed."""

    org: str
    run: str
    claim_ids: list[str]


class Exports:
    """The exports of late: some of them are taken back."""

    def __init__(self) -> None:
        self._latest: deque[Export] = deque(maxlen=EXPORTS_KEPT)

    def note(self, event: Json) -> None:
        """Note a run-finished that was confirmed."""
        if event["status"] != "failed" and event["claimIds"]:
            self._latest.append(Export(event["orgId"], event["runId"], event["claimIds"]))

    def draw(self, random: Random) -> Export | None:
        """One of them, rather a late one, if there are any."""
        if not self._latest:
            return None
        return self._latest[-1 - int(random.triangular(0, len(self._latest), 0))]


async def reverse(
    guard: Guard, publisher: Publisher, stream: EventStream, exports: Exports, stopping: asyncio.Event
) -> None:
    """Take exports back again and again, until `stopping` is set. Some requests repeat or contradict earlier ones."""
    random = stream.random
    while not stopping.is_set():
        await asyncio.sleep(PAUSE_S)
        export = exports.draw(random)
        if export is None:
            continue
        run = {"orgId": export.org, "runId": export.run}
        claim_ids = random.sample(export.claim_ids, random.randint(1, len(export.claim_ids)))
        request: Json = {**run, "reason": random.choice(["refused", "refused", "void"]), "reversedBy": "bob"}
        request |= {"approvedBy": "carol"} | ({"claimIds": claim_ids} if random.random() < 0.7 else {})
        reply = await guard.ask_twice("reverse-export", request)
        if reply is None or not reply["ok"]:
            continue
        check = {"orgId": export.org, "claimIds": reply["result"]["reversed"]}
        await guard.ask_twice("check-claims", check)
        if random.random() < LATE_EVENT_SHARE:
            late = stream.finished(**run, status="completed", claimIds=export.claim_ids)
            late.pop("skippedClaims", None)
            await publisher.deliver([stream.outgoing(late, "run-finished")])
            await asyncio.sleep(LATE_EVENT_S)
            await guard.ask_twice("check-claims", check)
