"""What the worker has no room to park, RabbitMQ keeps for a while: whatever it carries, and however much of it."""

import asyncio
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pamqp import encode

from schema import names
from sql.connection import Connection
from tests.conftest import DATABASE_CONNECTIONS_MAX, running_worker, worker_settings
from tests.raw_properties import HEADERS_FLAG, RawProperties, nested, publish_raw, table
from tests.resilience.conftest import Limit
from tests.resilience.locks import slow_down
from tests.resilience.observing import Log, publish_all, until, until_serving
from tests.wire import Wire, run_created, run_finished
from worker.broker.topology import Topology
from worker.database.pool import Pool, open_pool
from worker.limits import DEFAULT_LIMITS
from worker.session import WorkerParts
from worker.settings import WorkerSettings

DEAD = names.dead_letter_queue("run-finished")

BATCH_CLAIMS_MAX = 10
TOO_MANY_CLAIMS = [f"c-{number}" for number in range(BATCH_CLAIMS_MAX + 1)]
"""For a batch: an event with so many is stored on the side."""

AT_ONCE_S = 4

UNUSUAL_HEADERS = {
    "a text that is not UTF-8": table(b"note", b"S", struct.pack(">I", 2) + b"\xff\xfe"),
    "900 nested tables": nested(900),
    "nearly as many bytes as a frame holds": encode.field_table({"long": "x" * 130_900}),
}


@pytest.mark.parametrize("headers", UNUSUAL_HEADERS.values(), ids=UNUSUAL_HEADERS.keys())
async def test_the_headers_of_a_parked_event_end_no_session(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    log: Log,
    connection: Connection,
    with_ttl: Topology,
    headers: bytes,
) -> None:
    parts = WorkerParts(limits=replace(DEFAULT_LIMITS, parked_events_max=1), topology=with_ttl)
    runs = [run_created(orgId="org-locked") for _ in range(3)]
    bodies = [json.dumps(run_finished(runId=run["runId"], orgId="org-locked")).encode() for run in runs]
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        for run in runs:
            await wire.until_run(run["runId"])
        async with connection.transaction():
            await connection.execute("SELECT FROM export_runs WHERE org_id = 'org-locked' FOR UPDATE")
            properties = RawProperties(HEADERS_FLAG, headers)
            await publish_raw(wire, names.EVENTS_EXCHANGE, "run-finished", bodies, properties)
            await log.until("event_parked_on_the_broker", 4)
        await until_ended(connection, "org-locked", len(runs))
        assert await wire.count_in(DEAD) == 0
    assert log.of("session_lost") == []


async def test_large_events_wait_for_their_turn_as_long_as_it_takes(
    amqp_url: str, database_url: str, log: Log, connection: Connection, with_ttl: Topology, tmp_path: Path
) -> None:
    """They are stored on the side, one at a time. None is a dead letter before it was tried.

    Where users have organisations, the worker vouches for what it has parked.
    """
    await slow_down(connection, "org-slow", 0.5)
    file = tmp_path / "organisations.toml"
    file.write_text('nobody = "*"')
    settings = worker_settings(amqp_url, database_url, organisations=str(file))
    limits = replace(DEFAULT_LIMITS, batch_claims_max=BATCH_CLAIMS_MAX, parked_events_max=2, broker_parks_max=1)
    large = [run_finished(orgId="org-slow", status="failed", claimIds=TOO_MANY_CLAIMS) for _ in range(12)]
    async with (
        open_pool(settings, DATABASE_CONNECTIONS_MAX) as pool,
        running_worker(settings, pool, WorkerParts(limits=limits, topology=with_ttl)),
        Wire.connect(amqp_url, settings.user_id) as wire,
    ):
        await until_serving(wire)
        await publish_all(wire, "run-finished", large)
        await until_ended(connection, "org-slow", len(large))
        assert await wire.count_in(DEAD) == 0
    assert len(log.of("event_parked_on_the_broker")) > len(large)


@pytest.mark.parametrize("full", [DEAD, names.parked_queue("run-finished")])
async def test_a_full_queue_keeps_nothing_out_of_the_other(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, limit: Limit, full: str
) -> None:
    """Dead letters wait where their queue is full, and parked events where theirs is."""
    topology = await limit(full, "x-max-length", 1)
    parts = WorkerParts(limits=replace(DEFAULT_LIMITS, parked_events_max=1), topology=topology)
    runs = [run_created(orgId="org-locked") for _ in range(12)]
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        for run in runs:
            await wire.until_run(run["runId"])
        bad = [b"not JSON %d" % number for number in range(12)]
        async with connection.transaction():
            await connection.execute("SELECT FROM export_runs WHERE org_id = 'org-locked' FOR UPDATE")
            ends = [run_finished(runId=run["runId"], orgId="org-locked") for run in runs]
            if full == DEAD:
                await asyncio.gather(*(wire.publish("run-finished", body) for body in bad))
                await log.until("dead_letter_not_confirmed")
                await publish_all(wire, "run-finished", ends)
                await log.until("event_parked_on_the_broker")
            else:
                await publish_all(wire, "run-finished", ends)
                await log.until("parked_event_not_confirmed")
                await wire.publish("run-finished", bad[0])
                assert (await wire.take_from(DEAD)).body == bad[0]
    assert log.of("session_lost") == []


async def test_an_organisation_leaves_room_for_the_parked_events_of_others(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection
) -> None:
    """One with many waits for itself. Another one's large event is stored on the side, and at once."""
    parts = WorkerParts(limits=replace(DEFAULT_LIMITS, batch_claims_max=BATCH_CLAIMS_MAX, parked_events_max=4))
    runs = [run_created(orgId="org-locked") for _ in range(12)]
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        for run in runs:
            await wire.until_run(run["runId"])
        async with connection.transaction():
            await connection.execute("SELECT FROM export_runs WHERE org_id = 'org-locked' FOR UPDATE")
            ends = [run_finished(runId=run["runId"], orgId="org-locked") for run in runs]
            await publish_all(wire, "run-finished", ends)
            await log.until("event_parked_on_the_broker", 8)
            large = [run_finished(orgId=f"org-{number}", claimIds=TOO_MANY_CLAIMS) for number in range(2)]
            await publish_all(wire, "run-finished", large)
            for run in large:
                async with asyncio.timeout(AT_ONCE_S):
                    await wire.until_run(run["runId"], status="completed")


async def until_ended(connection: Connection, org_id: str, runs: int) -> None:
    """Wait until so many runs of an organisation have ended."""

    async def ended() -> bool:
        count = await connection.fetchval(
            "SELECT count(*) FROM export_runs WHERE org_id = $1 AND status <> 'pending'", org_id
        )
        return bool(count == runs)

    await until(ended, 40)


async def test_the_worker_counts_by_itself_how_often_an_event_was_kept(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, limit: Limit
) -> None:
    """From 4.0 on RabbitMQ counts only since an event was published last: in `x-death` it always comes to one."""
    parts = WorkerParts(
        limits=replace(DEFAULT_LIMITS, parked_events_max=1),
        topology=await limit(names.parked_queue("run-finished"), "x-message-ttl", 3_600_000),
    )
    runs = [run_created(orgId="org-locked") for _ in range(2)]
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        await publish_all(wire, "run-created", runs)
        for run in runs:
            await wire.until_run(run["runId"])
        async with connection.transaction():
            await connection.execute("SELECT FROM export_runs WHERE org_id = 'org-locked' FOR UPDATE")
            first, second = (run_finished(runId=run["runId"], orgId="org-locked") for run in runs)
            await wire.publish("run-finished", first)
            await log.until("event_parked")
            headers: dict[str, Any] = {"trace": "t-1"}
            for times in (1, 2, 3):
                await wire.publish("run-finished", second, headers=headers)
                kept = await wire.take_from(names.parked_queue("run-finished"))
                headers = dict(kept.headers)
                assert (headers["trace"], headers[names.TIMES_PARKED_HEADER]) == ("t-1", times)
