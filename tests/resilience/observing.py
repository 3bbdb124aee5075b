"""What the tests of faults have in common: to wait, to read the log, to tell whether the service is back."""

import asyncio
import logging
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
from aio_pika.exceptions import AMQPError
from structlog.typing import EventDict

from local.rabbitmq import LocalRabbitMQ
from schema import names
from schema.operations import OPERATIONS
from tests.wire import POLL_S, WAIT_S, Json, Wire, run_created, run_finished

RECOVERY_S: Final = 60
"""So long after what broke is whole again, the service must be back. The goal is 10 s on a machine of one's own; a
test shares its machine, and must not fail for that."""

ATTEMPT_S: Final = 3.0

RABBITMQCTL_TIMEOUT_S: Final = 120

EXPIRATION_S: Final = 4
"""How long the guard waits for an answer."""


async def until(condition: Callable[[], object], within_s: float = WAIT_S) -> None:
    """Wait until a condition holds; it may be a coroutine function. Raises TimeoutError."""
    async with asyncio.timeout(within_s) as bound:
        while not bound.expired():
            holds = condition()
            if isinstance(holds, Awaitable):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(POLL_S)
        raise TimeoutError  # aio-pika may raise its own error in place of the cancellation


class Log:
    """What this process has logged."""

    def __init__(self, lines: Sequence[EventDict]) -> None:
        self._lines = lines

    def of(self, event: str) -> list[EventDict]:
        """The lines of one event."""
        return [line for line in self._lines if line["event"] == event]

    async def until(self, event: str, times: int = 1, within_s: float = WAIT_S) -> None:
        """Wait until an event was logged `times` times."""
        await until(lambda: len(self.of(event)) >= times, within_s)

    def reasons(self) -> list[str]:
        """Why sessions that had begun were lost. What failed on the way to the next one has no reason."""
        return [str(line["reason"]).partition(":")[0] for line in self.of("session_lost") if line["reason"]]


async def until_serving(wire: Wire, within_s: float = RECOVERY_S) -> None:
    """Wait until an event gets stored and requests are answered."""
    created = run_created(orgId="org-serving")
    finished = {**created, "eventId": str(uuid4()), "status": "completed", "claimIds": ["c-serving"]}
    async with asyncio.timeout(within_s) as bound:
        while not bound.expired():
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    await wire.require_exchange(names.EVENTS_EXCHANGE)
                    await wire.require_exchange(names.RPC_EXCHANGE)
                    await wire.publish("run-created", created)
                    await wire.publish("run-finished", finished)
                    run = await wire.ask("get-export-run-by-id", {"runId": created["runId"]})
                if run["ok"] and run["result"]["triggeredBy"] and run["result"]["status"] == "completed":
                    return
            except (AMQPError, TimeoutError):
                pass
            await asyncio.sleep(POLL_S)
        raise TimeoutError


async def until_finished(wire: Wire, *claim_ids: str) -> None:
    """Finish a run with these claims, and wait until it is stored."""
    finished = run_finished(claimIds=claim_ids)
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"], status="completed")


async def until_steady(wire: Wire) -> None:
    """Wait until nothing of a worker starts any more. What breaks while it does is another kind of loss now and then.

    An event queue's first consumer takes one event; then another begins.
    """
    await until_serving(wire)
    async with asyncio.timeout(WAIT_S):
        for queue in (names.rpc_queue(operation.name) for operation in OPERATIONS):
            while not (await wire.channel.declare_queue(queue, passive=True)).declaration_result.consumer_count:
                await asyncio.sleep(POLL_S)
    await until_serving(wire)


async def publish_all(wire: Wire, event_type: str, bodies: Sequence[Json], **properties: Any) -> None:
    """Publish many events, and wait for all confirms."""
    for start in range(0, len(bodies), 500):
        await asyncio.gather(*(wire.publish(event_type, body, **properties) for body in bodies[start : start + 500]))


async def ask_in_time(wire: Wire, operation: str = "check-claims", **body: Any) -> Json:
    """Ask as the guard does: the answer must come while it waits."""
    asked = body or {"orgId": "org-1", "claimIds": ["c-1"]}
    return await wire.ask(operation, asked, wait_s=EXPIRATION_S, expiration=EXPIRATION_S)


async def rabbitmqctl(server: LocalRabbitMQ, *arguments: str, program: str = "rabbitmqctl") -> str:
    """Run a command of the broker's, of this program of its, in the broker's own environment. Returns its output."""
    process = await asyncio.create_subprocess_exec(
        *server.command(program, "-q", *arguments),
        env=server.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), RABBITMQCTL_TIMEOUT_S)
    assert process.returncode == 0
    return out.decode()


def peak_memory_kib(pid: int) -> int:
    """The most memory that a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


async def logged_ids(url: str) -> set[str]:
    """The events that are stored."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT event_id FROM export_run_events")
    await connection.close()
    return {str(row["event_id"]) for row in rows}


async def assert_unavailable(wire: Wire) -> None:
    """A request is refused while its caller still waits."""
    asked_at = time.monotonic()
    reply = await ask_in_time(wire)
    assert reply["error"]["code"] == "UNAVAILABLE", reply
    assert time.monotonic() - asked_at < EXPIRATION_S


async def until_all_stored(url: str, confirmed: list[str]) -> None:
    """Wait until every confirmed event is stored."""

    async def stored() -> bool:
        return set(confirmed) <= await logged_ids(url)

    await until(stored, RECOVERY_S)


@contextmanager
def unread_errors() -> Iterator[list[str]]:
    """What asyncio logs of tasks whose exceptions nobody has read, and that were collected as garbage."""
    errors: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Task exception was never retrieved"):
                errors.append(record.getMessage())

    handler = Handler()
    logging.getLogger("asyncio").addHandler(handler)
    try:
        yield errors
    finally:
        logging.getLogger("asyncio").removeHandler(handler)
