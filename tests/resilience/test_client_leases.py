"""The lease of an export is renewed, and where it cannot be, the exporter's code is stopped in time."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from export_runs_client import Export, ExportRuns, LeaseLost
from tests.chaos.proxy import Proxy
from tests.conftest import running_worker
from tests.resilience.conftest import through
from tests.wire import POLL_S, WAIT_S, Wire
from worker.database.pool import Pool
from worker.settings import WorkerSettings

LEASE_S = 6


@pytest.fixture
async def runs(amqp_url: str, broker_proxy: Proxy, tmp_path: Path) -> AsyncIterator[ExportRuns]:
    """A client that may export, on a wire that can be cut."""
    async with ExportRuns.connect(through(amqp_url, broker_proxy), spool=tmp_path, timeout_s=WAIT_S) as runs:
        yield runs


async def pay(export: Export, claim_id: str) -> None:
    await export.paying(claim_id)
    await export.exported(claim_id)


async def until_cancelled() -> None:
    """What an exporter does who works for long."""
    await asyncio.wait_for(asyncio.Event().wait(), WAIT_S)


async def until_renewed(wire: Wire, claim_id: str) -> None:
    [before] = (await wire.check("acme", claim_id))["reserved"]
    async with asyncio.timeout(WAIT_S):
        while (await wire.check("acme", claim_id))["reserved"] == [before]:
            await asyncio.sleep(POLL_S)


@pytest.mark.usefixtures("worker")
async def test_a_lease_is_renewed_again_and_again(runs: ExportRuns, wire: Wire) -> None:
    async with runs.export("acme", "alice", "csv", ["taxi-17"], lease_s=LEASE_S) as export:
        for _ in range(2):
            await until_renewed(wire, "taxi-17")
        await pay(export, "taxi-17")
    await wire.until_run(str(export.run_id), status="completed")


async def test_the_exporter_is_stopped_if_nobody_renews_its_lease(
    runs: ExportRuns, settings: WorkerSettings, pool: Pool, wire: Wire
) -> None:
    async def work() -> None:
        async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"], lease_s=LEASE_S) as export:
            run_ids.append(str(export.run_id))
            await pay(export, "taxi-17")
            granted.set()
            await until_cancelled()

    run_ids: list[str] = []
    granted = asyncio.Event()
    async with running_worker(settings, pool):
        working = asyncio.create_task(work())
        await asyncio.wait_for(granted.wait(), WAIT_S)
    with pytest.raises(LeaseLost, match="two thirds of the lease are over"):
        await working
    async with running_worker(settings, pool):
        await wire.ready()
        run = await wire.until_run(run_ids[0], status="partial", triggeredBy="alice")
        assert (run["claimIds"], run["error"]["code"]) == (["taxi-17"], "LeaseLost")
        assert (await wire.check("acme", "hotel-4"))["unexported"] == ["hotel-4"]


@pytest.mark.usefixtures("worker")
async def test_the_exporter_is_stopped_if_its_wire_is_frozen(runs: ExportRuns, wire: Wire, broker_proxy: Proxy) -> None:
    async def work() -> None:
        async with runs.export("acme", "alice", "csv", ["taxi-17"], lease_s=LEASE_S) as export:
            run_ids.append(str(export.run_id))
            async with broker_proxy.frozen():
                await until_cancelled()

    run_ids: list[str] = []
    with pytest.raises(LeaseLost):
        await work()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await wire.until_run(run_ids[0], status="failed", triggeredBy="alice")


@pytest.mark.usefixtures("worker")
async def test_a_lease_outlives_a_connection(runs: ExportRuns, wire: Wire, broker_proxy: Proxy) -> None:
    async with runs.export("acme", "alice", "csv", ["taxi-17"], lease_s=10) as export:
        async with broker_proxy.cut():
            pass
        await until_renewed(wire, "taxi-17")
        await pay(export, "taxi-17")
    await wire.until_run(str(export.run_id), status="completed")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("is_taken", [True, False])
async def test_the_exporter_is_stopped_if_a_claim_was_released_meanwhile(
    runs: ExportRuns, wire: Wire, is_taken: bool
) -> None:
    async def work() -> None:
        async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"], lease_s=10) as export:
            await wire.result("release-claims", orgId="acme", runId=str(export.run_id), claimIds=["taxi-17"])
            if is_taken:
                await wire.result("reserve-claims", orgId="acme", runId=str(uuid4()), claimIds=["taxi-17"])
            await until_cancelled()

    with pytest.raises(LeaseLost, match="another run has taken a claim"):
        await work()


@pytest.mark.usefixtures("worker")
async def test_nothing_is_paid_after_a_program_was_stuck(runs: ExportRuns, wire: Wire) -> None:
    async def work() -> None:
        async with runs.export("acme", "alice", "csv", ["taxi-17"], lease_s=LEASE_S) as export:
            run_ids.append(str(export.run_id))
            time.sleep(LEASE_S)  # noqa: ASYNC251 -- a program that blocks the loop renews nothing
            await export.paying("taxi-17")
            pytest.fail("it would be paid")

    run_ids: list[str] = []
    with pytest.raises(LeaseLost):
        await work()
    await wire.until_run(run_ids[0], status="failed", triggeredBy="alice")


@pytest.mark.usefixtures("worker")
async def test_an_exporter_that_ignores_its_cancellation_pays_nothing_more(
    runs: ExportRuns, wire: Wire, broker_proxy: Proxy
) -> None:
    async def work() -> None:
        async with runs.export("acme", "alice", "csv", ["taxi-17"], lease_s=LEASE_S) as export:
            async with broker_proxy.frozen():
                with pytest.raises(asyncio.CancelledError):
                    await until_cancelled()
            with pytest.raises(LeaseLost):
                await export.paying("taxi-17")

    with pytest.raises(LeaseLost):
        await work()
    assert (await wire.check("acme", "taxi-17"))["exported"] == []
