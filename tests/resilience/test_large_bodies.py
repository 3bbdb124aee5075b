"""Bodies of any size: what a worker holds of them is bounded, and small messages do not wait for large ones."""

import asyncio
import json
from collections import Counter

import pytest

from schema.limits import BODY_BYTES_MAX
from sql.connection import Connection
from tests.commands import worker_process
from tests.conftest import running_worker
from tests.resilience.conftest import Wires
from tests.resilience.locks import locked, waiting
from tests.resilience.observing import RECOVERY_S, Log, peak_memory_kib, until, until_serving
from tests.wire import Json, Wire, run_created
from worker.database.pool import Pool
from worker.limits import WorkerLimits
from worker.session import WorkerParts
from worker.settings import WorkerSettings

OVERSIZED_BYTES = 8 * 1024 * 1024
OVERSIZED = 20
LARGE_BYTES = 1024 * 1024
LARGE = 40


def padded(event: Json, size_bytes: int) -> bytes:
    """An event with a field that nobody knows, and so many bytes."""
    shortest = len(json.dumps({**event, "padding": ""}))
    return json.dumps({**event, "padding": "x" * (size_bytes - shortest)}).encode()


async def test_oversized_events_are_dead_lettered_whole_one_after_the_other(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection
) -> None:
    """A worker that held them all would need many times as much memory. Sound events do not wait for them."""
    async with running_worker(settings, pool):
        await until_serving(wire)
    bodies = [padded(run_created(), OVERSIZED_BYTES + number) for number in range(OVERSIZED)]
    for body in bodies:
        await wire.publish("run-created", body)
    async with worker_process(settings, "--only", "events") as worker:
        await worker.until_logged("session_started")
        before_kib = peak_memory_kib(worker.pid)
        sound = run_created(orgId="org-sound")
        await wire.publish("run-created", sound)
        await until(lambda: is_stored(connection, sound["runId"]))
        sizes = set()
        for _ in bodies:
            dead = await wire.take_from("export-runs.run-created.dead")
            assert dead.headers["x-error-code"] == "INVALID_EVENT"
            assert f"is {len(dead.body):,} bytes long" in str(dead.headers["x-error-detail"])
            sizes.add(len(dead.body))
        assert sizes == {len(body) for body in bodies}
        grown_kib = peak_memory_kib(worker.pid) - before_kib
    assert grown_kib < OVERSIZED * OVERSIZED_BYTES / 1024 / 2


async def is_stored(connection: Connection, run_id: str) -> bool:
    """Whether a run is known."""
    return bool(await connection.fetchval("SELECT count(*) FROM export_runs WHERE run_id = $1", run_id))


async def test_more_large_events_than_there_is_room_for(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    connection: Connection,
    log: Log,
    wires: Wires,
    deliveries: Counter[bool],
) -> None:
    """Each is given back about once, and stored; small events do not wait for them."""
    limits = WorkerLimits(event_bodies_bytes_max=2 * BODY_BYTES_MAX, parked_bytes_max=BODY_BYTES_MAX)
    parts = WorkerParts(open_link=wires.open_link, limits=limits)
    large = [run_created(orgId="org-large") for _ in range(LARGE)]
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        async with locked(settings.database_url.get_secret_value(), "export_runs"):
            await wire.publish("run-created", padded(large[0], LARGE_BYTES))
            await until(lambda: waiting(settings.database_url.get_secret_value(), 1))
            for event in large[1:]:
                await wire.publish("run-created", padded(event, LARGE_BYTES))
        await until_serving(wire)
        await until(lambda: all_stored(connection), within_s=2 * RECOVERY_S)
    assert 0 < deliveries[True] <= 2 * LARGE
    assert log.of("event_dead_lettered") == log.of("session_lost") == []


async def all_stored(connection: Connection) -> bool:
    """Whether every large event is."""
    stored = await connection.fetchval("SELECT count(*) FROM export_runs WHERE org_id = 'org-large'")
    return bool(stored == LARGE)


async def test_more_large_requests_than_there_is_room_for(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log
) -> None:
    """They hear so at once; small ones are answered."""
    parts = WorkerParts(limits=WorkerLimits(request_bodies_bytes_max=BODY_BYTES_MAX))
    check: Json = {"orgId": "org-1", "claimIds": ["c-1"]}
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        async with locked(settings.database_url.get_secret_value(), "export_run_claims"):
            large = [asyncio.create_task(wire.ask("check-claims", padded(check, LARGE_BYTES))) for _ in range(10)]
            small = [asyncio.create_task(wire.ask("check-claims", check)) for _ in range(10)]
            await until(lambda: sum(each.done() for each in large) >= 10 - BODY_BYTES_MAX // LARGE_BYTES)
        answers = [await each for each in large]
        assert all([(await each)["ok"] for each in small])
        refused = [answer["error"] for answer in answers if not answer["ok"]]
        assert len(refused) == 10 - BODY_BYTES_MAX // LARGE_BYTES
        assert {error["code"] for error in refused} == {"UNAVAILABLE"}
        assert all("large" in error["message"] for error in refused)
        assert (await wire.ask("check-claims", padded(check, LARGE_BYTES)))["ok"], "there is room again"
    assert log.of("session_lost") == []


@pytest.mark.usefixtures("worker")
async def test_oversized_requests_are_not_kept(wire: Wire) -> None:
    """Each hears how large it may be."""
    await until_serving(wire)
    body = padded({"orgId": "org-1", "claimIds": ["c-1"]}, OVERSIZED_BYTES)
    for error in await asyncio.gather(*(wire.error("check-claims", body) for _ in range(10))):
        assert error["code"] == "INVALID_REQUEST"
        assert f"is {OVERSIZED_BYTES:,} bytes long, at most {BODY_BYTES_MAX:,}" in error["details"][0]["message"]
