"""More than can be done at once: the broker holds it, or it is let go in time."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import aio_pika
import asyncpg
import pytest

from schema import names
from sql.connection import Connection
from tests.commands import worker_process
from tests.conftest import running_worker, worker_settings
from tests.resilience.observing import EXPIRATION_S, Log, ask_in_time, peak_memory_kib, until, until_serving
from tests.wire import WAIT_S, Wire, run_created
from worker.broker.declaration import declare
from worker.database.pool import Pool
from worker.routes import ROUTES, AnswerContext, RequestRoute
from worker.session import WorkerParts
from worker.settings import WorkerSettings

FLOOD = 2_000

RUN_ID = "6b1f4c6e-5a0e-4a8e-9d35-3c6f6a3b1f10"
NEW_RUN = {"runId": RUN_ID, "orgId": "org-1", "triggeredBy": "alice", "format": "csv"}
REQUESTS: dict[str, dict[str, object]] = {
    "check-claims": {"orgId": "org-1", "claimIds": ["c-1"]},
    "find-runs-by-claim-id": {"claimId": "c-1"},
    "get-export-run-by-id": {"runId": RUN_ID},
    "list-run-claims": {"runId": RUN_ID},
    "get-export-history": {"orgId": "org-1"},
    "create-export-run": {**NEW_RUN},
    "update-export-run-status": {"runId": RUN_ID, "status": "failed", "claimIds": ["c-1"]},
    "delete-export-run": {"runId": RUN_ID, "deletedBy": "bob", "reason": "a test"},
    "reserve-claims": {"orgId": "org-1", "runId": RUN_ID, "claimIds": ["c-1"]},
    "release-claims": {"orgId": "org-1", "runId": RUN_ID},
    "list-double-exports": {"orgId": "org-1"},
    "reverse-export": {
        "orgId": "org-1",
        "runId": RUN_ID,
        "reason": "a test",
        "reversedBy": "bob",
        "approvedBy": "carol",
    },
    "resolve-double-export": {"orgId": "org-1", "claimId": "c-1", "resolvedBy": "bob", "note": "a test"},
    "list-stale-runs": {"olderThanSeconds": 60},
    "check-period": {"orgId": "org-1", "periodStart": "2026-01-01", "periodEnd": "2026-01-31"},
    "get-last-export": {"orgId": "org-1"},
    "explain-claim": {"orgId": "org-1", "claimId": "c-1"},
}


async def drained_with(settings: WorkerSettings, wire: Wire, backlog: int) -> int:
    """The most memory that a new worker takes while it stores a backlog, in KiB."""
    connection = await aio_pika.connect(settings.amqp_url.get_secret_value(), timeout=WAIT_S)
    async with connection:
        channel = await connection.channel(publisher_confirms=False)
        exchange = await channel.get_exchange(names.EVENTS_EXCHANGE, ensure=False)
        for _ in range(backlog):
            await exchange.publish(aio_pika.Message(json.dumps(run_created()).encode()), "run-created")
        await until(lambda: holds(wire, backlog), within_s=2 * WAIT_S)
    async with worker_process(settings, "--only", "events") as worker:
        stored = 0
        while stored < backlog:
            stored += int((await worker.until_logged("events_stored"))["events"])
        return peak_memory_kib(worker.pid)


async def test_memory_does_not_grow_with_the_backlog(settings: WorkerSettings, pool: Pool, wire: Wire) -> None:
    async with running_worker(settings, pool):
        await until_serving(wire)
    small = await drained_with(settings, wire, 2_000)
    large = await drained_with(settings, wire, 10_000)
    assert large <= 1.3 * small


async def flood(wire: Wire, operation: str, body: dict[str, object], requests: int, expiration_s: float) -> None:
    """Send many requests without waiting for the replies, which go to a queue of their own."""
    await wire.channel.declare_queue("reply.flood", auto_delete=False)
    exchange = await wire.channel.get_exchange(names.RPC_EXCHANGE, ensure=False)
    for start in range(0, requests, 500):
        await asyncio.gather(
            *(
                exchange.publish(
                    aio_pika.Message(
                        json.dumps(body).encode(),
                        reply_to="reply.flood",
                        correlation_id=str(number),
                        message_id=f"flood-{number}",
                        expiration=expiration_s,
                    ),
                    operation,
                )
                for number in range(start, min(start + 500, requests))
            )
        )


async def test_a_flood_of_history_does_not_starve_the_guard(settings: WorkerSettings, pool: Pool, wire: Wire) -> None:
    """Not even while as many of those requests as may be worked on get on with nothing."""
    [route] = [route for route in ROUTES.requests if route.operation.name == "get-export-history"]
    begun: list[object] = []

    async def never_answer(connection: Connection, requests: Sequence[Any], context: AnswerContext) -> Sequence[Any]:
        begun.append(requests)
        await asyncio.Event().wait()
        return []

    slow = tuple(replace(each, answer=never_answer) if each is route else each for each in ROUTES.requests)
    parts = WorkerParts(routes=replace(ROUTES, requests=slow))
    history = names.rpc_queue("get-export-history")
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        await flood(wire, "get-export-history", {"orgId": "org-1"}, FLOOD, expiration_s=10)
        await until(lambda: len(begun) >= route.queries_max)
        for _ in range(20):
            assert (await ask_in_time(wire))["ok"] is True
        assert await wire.count_in(history) > FLOOD / 2
        await wire.channel.queue_delete(history)
        await declare(wire.channel)
    await wire.channel.queue_delete("reply.flood")


async def test_a_deadline_of_its_own_for_who_gives_none(
    amqp_url: str, database_url: str, pool: Pool, wire: Wire, log: Log
) -> None:
    """Shorter here than every time-out of the database."""
    blocker = await asyncpg.connect(database_url)
    async with running_worker(worker_settings(amqp_url, database_url, request_deadline_s=0.5), pool):
        await until_serving(wire)
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE export_run_claims IN ACCESS EXCLUSIVE MODE")
            answer = await wire.error("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]})
            assert answer["code"] == "UNAVAILABLE"
    await blocker.close()
    assert len(log.of("request_timed_out")) == 1


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("route", ROUTES.requests, ids=lambda route: route.operation.name)
async def test_each_operation_has_its_own_limit(
    settings: WorkerSettings, wire: Wire, route: RequestRoute[Any, Any]
) -> None:
    """So many requests are taken from its queue, and no more."""
    await until_serving(wire)
    operation, queue = route.operation.name, names.rpc_queue(route.operation.name)
    blocker = await asyncpg.connect(settings.database_url.get_secret_value())
    async with blocker.transaction():
        await blocker.execute(
            "LOCK TABLE export_runs, export_run_claims, claim_leases, double_exported_claims IN ACCESS EXCLUSIVE MODE"
        )
        await flood(wire, operation, REQUESTS[operation], route.held_max + 4, expiration_s=EXPIRATION_S)
        await until(lambda: has(wire, queue, 4), within_s=EXPIRATION_S)
    await until(lambda: nothing_waits(wire, queue))
    await blocker.close()
    await wire.channel.queue_delete("reply.flood")


@pytest.mark.usefixtures("worker")
async def test_nothing_is_answered_late(settings: WorkerSettings, wire: Wire) -> None:
    """What nobody waits for any more is not worked on; what was begun ends with UNAVAILABLE."""
    await until_serving(wire)
    blocker = await asyncpg.connect(settings.database_url.get_secret_value())

    async def nobody_is_asked() -> bool:
        return not await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")

    async with blocker.transaction():
        await blocker.execute("LOCK TABLE export_runs IN ACCESS EXCLUSIVE MODE")
        await flood(wire, "get-export-history", {"orgId": "org-1"}, 200, expiration_s=1)
        asked_at = time.monotonic()
        await until(lambda: nothing_waits(wire, names.rpc_queue("get-export-history")))
        assert time.monotonic() - asked_at < 10 * EXPIRATION_S
        await until(nobody_is_asked)
    await until_serving(wire)
    replies = [await wire.take_from("reply.flood") for _ in range(await wire.count_in("reply.flood"))]
    assert 0 < len(replies) < 100
    assert {json.loads(reply.body)["error"]["code"] for reply in replies} == {"UNAVAILABLE"}
    await blocker.close()
    await wire.channel.queue_delete("reply.flood")


async def nothing_waits(wire: Wire, queue: str) -> bool:
    """Whether nothing stands ready in a queue."""
    return await wire.count_in(queue) == 0


async def has(wire: Wire, queue: str, messages: int) -> bool:
    """Whether so many messages stand ready in a queue."""
    return await wire.count_in(queue) == messages


async def holds(wire: Wire, events: int) -> bool:
    """Whether all of a backlog stand ready, and with them perhaps some that a worker died with."""
    return await wire.count_in(names.event_queue("run-created")) >= events
