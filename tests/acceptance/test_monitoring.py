"""A worker says by HTTP whether it lives, whether it can work, and what it has done."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sql.connection import Connection
from tests.chaos.proxy import Proxy
from tests.commands import export_runs, worker_process
from tests.resilience.conftest import opened, through
from tests.resilience.observing import RECOVERY_S, until
from tests.storing import UNPUBLISHED_ALERT
from tests.wire import Wire, run_created, run_finished
from worker.broker.topology import TOPOLOGY
from worker.settings import WorkerSettings

HOST = "127.0.0.1"


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


async def get(port: int, path: str) -> tuple[int, str]:
    """The status and the body of an answer."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def health(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """The status, and which part has which obstacle."""
    status, body = await get(port, path)
    return status, json.loads(body)["obstacles"]


async def is_ready(port: int) -> bool:
    try:
        return await health(port, "/readyz") == (200, {})
    except ConnectionRefusedError:
        return False


async def metrics(port: int) -> dict[str, Metric]:
    status, body = await get(port, "/metrics")
    assert status == 200
    return {family.name: family for family in text_string_to_metric_families(body)}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The only number with these labels."""
    [found] = [
        each.value
        for family in families.values()
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    ]
    return found


def numbers(families: dict[str, Metric], name: str, label: str) -> dict[str, float]:
    """The numbers of a gauge, by a label; none where it has none."""
    return {each.labels[label]: each.value for each in families[name].samples} if name in families else {}


def exposed(families: dict[str, Metric]) -> Iterator[str]:
    for family in families.values():
        for sample in family.samples:
            yield from sample.labels.values()


async def test_a_worker_answers_for_all_its_processes(settings: WorkerSettings, wire: Wire, port: int) -> None:
    async with worker_process(settings, EXPORT_RUNS_HTTP_PORT=str(port)):
        await until(lambda: is_ready(port), RECOVERY_S)
        assert await health(port, "/livez") == (200, {})
        events = [run_created(orgId="org-secret") for _ in range(3)]
        for event in events:
            await wire.publish("run-created", event)
        await wire.publish("run-created", {"no": "event"})
        reply = await wire.ask("check-claims", {"orgId": "org-secret", "claimIds": ["c-1"]})
        assert reply["ok"] is True
        refused = await wire.ask("check-claims", {"orgId": "org-secret"})
        assert refused["ok"] is False

        async def all_counted() -> bool:
            families = await metrics(port)
            stored = "export_runs_events_stored_total", "export_runs_events_dead_lettered_total"
            names = {sample.name for family in families.values() for sample in family.samples}
            return names.issuperset(stored) and value(families, stored[0], event_type="run-created") == len(events)

        await until(all_counted)
        families = await metrics(port)
        created = {"event_type": "run-created", "part": "events"}
        assert value(families, "export_runs_events_dead_lettered_total", code="INVALID_EVENT", **created) == 1
        assert 1 <= value(families, "export_runs_batch_events_count", **created) <= len(events)
        assert value(families, "export_runs_batch_events_sum", **created) == len(events)
        assert value(families, "export_runs_commit_seconds_sum", **created) > 0
        assert value(families, "export_runs_commit_seconds_sum", **created) < value(
            families, "export_runs_store_seconds_sum", **created
        )
        check = {"operation": "check-claims", "part": "requests"}
        assert value(families, "export_runs_requests_total", code="OK", **check) == 1
        assert value(families, "export_runs_requests_total", code="INVALID_REQUEST", **check) == 1
        assert value(families, "export_runs_request_seconds_count", **check) == 1
        assert value(families, "export_runs_requests_in_flight", **check) == 0
        for part in ("supervisor", "events", "requests"):
            assert value(families, "process_resident_memory_bytes", part=part) > 1e6
        assert not any("org-secret" in text or events[0]["runId"] in text for text in exposed(families))


OFTEN = """
from worker.limits import WorkerLimits
from worker.session import WorkerParts
parts = WorkerParts(limits=WorkerLimits(backlog_interval_s=0.1))
"""
"""A worker that looks up often what waits."""


async def test_what_waits_for_somebody_is_measured(
    settings: WorkerSettings, wire: Wire, connection: Connection, port: int
) -> None:
    variables = {"EXPORT_RUNS_HTTP_PORT": str(port), "EXPORT_RUNS_STALE_RUN_S": "60"}
    async with worker_process(settings, parts=OFTEN, **variables):
        await until(lambda: is_ready(port), RECOVERY_S)
        await wire.publish("run-created", {"no": "event"})
        for _ in range(2):
            await wire.publish("run-finished", run_finished(claimIds=["c-1"]))
        long_ago = (datetime.now(UTC) - timedelta(minutes=2)).isoformat()
        await wire.publish("run-created", run_created(occurredAt=long_ago))
        await connection.execute(UNPUBLISHED_ALERT)

        async def is_measured() -> bool:
            families = await metrics(port)
            messages = numbers(families, "export_runs_queue_messages", "queue")
            return numbers(families, "export_runs_backlog", "kind") == {
                "unpublished_alerts": 1,
                "unresolved_double_exports": 1,
                "stale_runs": 1,
            } and (messages["export-runs.run-created.dead"], messages["export-runs.alerts"]) == (1, 1)

        await until(is_measured)
        families = await metrics(port)
        assert numbers(families, "export_runs_queue_messages", "queue").keys() == {q.name for q in TOPOLOGY.queues}
        consumers = numbers(families, "export_runs_queue_consumers", "queue")
        assert (consumers["export-runs.run-created"], consumers["export-runs.rpc.check-claims"]) == (1, 1)
        assert consumers["export-runs.run-created.dead"] == 0
        assert value(families, "export_runs_event_wait_seconds_count", event_type="run-created") == 1
        assert value(families, "export_runs_double_exports_found_total") == 1
        await wire.channel.queue_delete("export-runs.unroutable")

        async def is_forgotten() -> bool:
            return "export-runs.unroutable" not in numbers(await metrics(port), "export_runs_queue_messages", "queue")

        await until(is_forgotten)


async def test_a_database_that_is_slow_holds_up_no_scrape(
    settings: WorkerSettings, wire: Wire, connection: Connection, port: int
) -> None:
    variables = {"EXPORT_RUNS_HTTP_PORT": str(port), "EXPORT_RUNS_LOCK_TIMEOUT_S": "0.2"}
    async with worker_process(settings, parts=OFTEN, **variables):

        async def is_known() -> bool:
            return len(numbers(await metrics(port), "export_runs_backlog", "kind")) == 3

        async def is_unknown_and_an_event_waits() -> bool:
            families = await metrics(port)
            oldest = numbers(families, "export_runs_oldest_event_in_hand_seconds", "event_type")
            return not numbers(families, "export_runs_backlog", "kind") and oldest["run-created"] > 0

        await until(lambda: is_ready(port), RECOVERY_S)
        await until(is_known)
        async with connection.transaction():
            await connection.execute("LOCK TABLE export_runs")
            await wire.publish("run-created", run_created())
            await until(is_unknown_and_an_event_waits)
        await until(is_known)

        async def is_stored() -> bool:
            families = await metrics(port)
            oldest = numbers(families, "export_runs_oldest_event_in_hand_seconds", "event_type")
            return oldest == {"run-created": 0, "run-finished": 0}

        await until(is_stored)


async def test_an_event_loop_that_stands_still_is_not_alive(settings: WorkerSettings, port: int) -> None:
    async with worker_process(settings, EXPORT_RUNS_HTTP_PORT=str(port)) as worker:
        pids = await worker.until_parts_started()
        await until(lambda: is_ready(port), RECOVERY_S)
        os.kill(pids["events"], signal.SIGSTOP)
        assert await health(port, "/livez") == (503, {"events": ["its event loop stands still"]})
        assert (await health(port, "/readyz"))[0] == 503
        os.kill(pids["events"], signal.SIGCONT)
        await until(lambda: is_ready(port), RECOVERY_S)
        assert await health(port, "/livez") == (200, {})


async def test_a_process_that_ended_is_no_reason_to_restart_the_others(settings: WorkerSettings, port: int) -> None:
    async with worker_process(settings, EXPORT_RUNS_HTTP_PORT=str(port)) as worker:
        pids = await worker.until_parts_started()
        await until(lambda: is_ready(port), RECOVERY_S)
        os.kill(pids["requests"], signal.SIGKILL)
        await worker.until_logged("part_ended")
        assert await health(port, "/livez") == (200, {})
        assert (await health(port, "/readyz"))[0] == 503
        await until(lambda: is_ready(port), RECOVERY_S)


async def test_a_worker_without_its_database_is_not_ready(settings: WorkerSettings, wire: Wire, port: int) -> None:
    url = settings.database_url.get_secret_value()
    async with opened(url, Proxy) as proxy:
        url = through(url, proxy)
        async with worker_process(settings, EXPORT_RUNS_HTTP_PORT=str(port), EXPORT_RUNS_DATABASE_URL=url):
            await until(lambda: is_ready(port), RECOVERY_S)
            async with proxy.cut():

                async def is_noticed() -> bool:
                    """By both parts: a check notices it for its own, and an event for the other."""
                    status, obstacles = await health(port, "/readyz")
                    noticed = [part for part, texts in obstacles.items() if "database cannot be used" in str(texts)]
                    return (status, sorted(noticed)) == (503, ["events", "requests"])

                await wire.publish("run-created", run_created())
                assert (await wire.ask("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]}))["ok"] is False
                await until(is_noticed, RECOVERY_S)
                asked = await export_runs("health", settings=settings, variables={"EXPORT_RUNS_HTTP_PORT": str(port)})
                assert asked.code == 1
                assert "the database cannot be used" in asked.out
            await until(lambda: is_ready(port), RECOVERY_S)


async def test_the_command_health(settings: WorkerSettings, port: int) -> None:
    variables = {"EXPORT_RUNS_HTTP_PORT": str(port)}
    nobody = await export_runs("health", settings=settings, variables=variables)
    assert (nobody.code, nobody.err) == (3, f"no worker answers on {HOST} port {port}\n")
    unset = await export_runs("health", settings=settings)
    assert (unset.code, unset.err) == (2, "EXPORT_RUNS_HTTP_PORT: is not set\n")
    async with worker_process(settings, **variables):
        await until(lambda: is_ready(port), RECOVERY_S)
        ready = await export_runs("health", "--json", settings=settings, variables=variables)
        assert (ready.code, json.loads(ready.out)) == (0, {"ok": True, "obstacles": {}})


async def test_a_part_on_its_own_answers_for_itself(settings: WorkerSettings, port: int) -> None:
    async with worker_process(settings, "--only", "requests", EXPORT_RUNS_HTTP_PORT=str(port)):
        await until(lambda: is_ready(port), RECOVERY_S)
        assert value(await metrics(port), "export_runs_build_info", part="requests") == 1


async def test_a_port_that_is_taken_ends_the_worker(settings: WorkerSettings, port: int) -> None:
    with socket.socket() as other:
        other.bind((HOST, port))
        other.listen()
        ended = await export_runs("worker", settings=settings, variables={"EXPORT_RUNS_HTTP_PORT": str(port)})
    assert ended.code == 2
    assert "EXPORT_RUNS_HTTP_PORT: cannot listen on it: Address already in use" in ended.err
    assert "Traceback" not in ended.err
