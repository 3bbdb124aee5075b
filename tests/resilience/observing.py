"""What the tests of faults have in common: to wait, to read the log, to tell whether the service is back."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import uuid4

from aio_pika.exceptions import AMQPError
from structlog.typing import EventDict

from tests.wire import POLL_S, WAIT_S, Json, Wire, run_created

RECOVERY_S: Final = 30
"""So long after what broke is whole again, the service must be back. The goal is 10 s on a machine of one's own; a
test shares its machine, and must not fail for that."""

ATTEMPT_S: Final = 1.5

EXPIRATION_S: Final = 2
"""How long the guard waits for an answer."""


async def until(condition: Callable[[], object], within_s: float = WAIT_S) -> None:
    """Wait until a condition holds; it may be a coroutine function."""
    async with asyncio.timeout(within_s):
        while True:
            holds = condition()
            if isinstance(holds, Awaitable):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(POLL_S)


class Log:
    """What this process has logged."""

    def __init__(self, lines: Sequence[EventDict]) -> None:
        self._lines = lines

    def of(self, event: str) -> list[EventDict]:
        """The lines of one event."""
        return [line for line in self._lines if line["event"] == event]

    async def until(self, event: str, times: int = 1, within_s: float = WAIT_S) -> None:
        """Wait until an event was logged so often."""
        await until(lambda: len(self.of(event)) >= times, within_s)

    def reasons(self) -> list[str]:
        """Why sessions that had begun were lost. What failed on the way to the next one has no reason."""
        return [str(line["reason"]) for line in self.of("session_lost") if line["reason"]]


async def until_serving(wire: Wire, within_s: float = RECOVERY_S) -> None:
    """Wait until an event gets stored and requests are answered."""
    created = run_created(orgId="org-serving")
    finished = {**created, "eventId": str(uuid4()), "status": "completed", "claimIds": ["c-serving"]}
    async with asyncio.timeout(within_s):
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    await wire.publish("run-created", created)
                    await wire.publish("run-finished", finished)
                    run = await wire.ask("get-export-run-by-id", {"runId": created["runId"]})
                if run["ok"] and run["result"]["triggeredBy"] and run["result"]["status"] == "completed":
                    return
            except (AMQPError, TimeoutError):
                pass
            await asyncio.sleep(POLL_S)


async def publish_all(wire: Wire, event_type: str, bodies: Sequence[Json], **properties: Any) -> None:
    """Publish many events, and wait for all confirms."""
    for start in range(0, len(bodies), 500):
        await asyncio.gather(*(wire.publish(event_type, body, **properties) for body in bodies[start : start + 500]))


async def ask_in_time(wire: Wire, operation: str = "check-claims", **body: Any) -> Json:
    """Ask as the guard does: the answer must come while it waits."""
    asked = body or {"orgId": "org-1", "claimIds": ["c-1"]}
    return await wire.ask(operation, asked, wait_s=EXPIRATION_S, expiration=EXPIRATION_S)
