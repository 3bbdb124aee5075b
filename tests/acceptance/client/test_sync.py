"""The synchronous client: the same methods, called from threads."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from export_runs_client import InvalidRequest, LeaseLost, NoAnswer, RunStatus, sync
from tests.conftest import running_worker
from tests.wire import POLL_S, WAIT_S, Wire
from worker.database.pool import Pool
from worker.settings import WorkerSettings

THREADS = 8
LEASE_S = 6


@pytest.mark.usefixtures("worker")
async def test_a_thread_asks_and_reads_all_pages(amqp_url: str) -> None:
    def work() -> None:
        with sync.ExportRuns.connect(amqp_url, timeout_s=WAIT_S) as runs:
            run = runs.create_export_run("acme", "alice", "csv")
            runs.update_export_run_status(run.run_id, RunStatus.COMPLETED, ["taxi-17"])
            assert [claim.claim_id for claim in runs.check_claims("acme", ["taxi-17"]).exported] == ["taxi-17"]
            assert [each.run_id for each in runs.history("acme", status=RunStatus.COMPLETED)] == [run.run_id]
            assert next(iter(runs.run_claims(run.run_id))).claim_id == "taxi-17"
            with pytest.raises(InvalidRequest, match="claimIds"):
                runs.check_claims("acme", [])

    await asyncio.to_thread(work)


@pytest.mark.usefixtures("worker")
async def test_many_threads_share_a_client(amqp_url: str) -> None:
    def work() -> None:
        with (
            sync.ExportRuns.connect(amqp_url, timeout_s=WAIT_S) as runs,
            ThreadPoolExecutor(THREADS) as threads,
        ):
            answers = threads.map(lambda number: runs.check_claims("acme", [f"c-{number}"]), range(10 * THREADS))
            assert [checked.unexported for checked in answers] == [[f"c-{number}"] for number in range(10 * THREADS)]

    await asyncio.to_thread(work)


@pytest.mark.usefixtures("worker")
async def test_a_thread_exports(amqp_url: str, wire: Wire, tmp_path: Path) -> None:
    def work() -> str:
        with sync.ExportRuns.connect(amqp_url, spool=tmp_path, timeout_s=WAIT_S) as runs:
            with runs.export("acme", "alice", "csv", ["taxi-17", "taxi-9"]) as export:
                assert (export.granted, export.conflicts, export.fencing_token) == (["taxi-17", "taxi-9"], [], 1)
                export.check_lease()
                export.paying("taxi-17")
                export.exported("taxi-17", voucher_id="V-1")
                export.skipped("taxi-9", reason="no account")
                export.note(external_ack_id="ledger-1")
            return str(export.run_id)

    run = await wire.until_run(await asyncio.to_thread(work), status="completed", triggeredBy="alice")
    assert (run["claimIds"], run["externalAckId"]) == (["taxi-17"], "ledger-1")


@pytest.mark.usefixtures("worker")
async def test_the_exception_of_a_thread_is_reported(amqp_url: str, wire: Wire, tmp_path: Path) -> None:
    run_ids = []

    def work() -> None:
        with (
            sync.ExportRuns.connect(amqp_url, spool=tmp_path, timeout_s=WAIT_S) as runs,
            runs.export("acme", "alice", "csv", ["taxi-17"]) as export,
        ):
            run_ids.append(str(export.run_id))
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(work)
    run = await wire.until_run(run_ids[0], status="failed", triggeredBy="alice")
    assert run["error"] == {"code": "ZeroDivisionError", "detail": "a bug"}


async def test_a_thread_pays_nothing_after_its_lease(
    amqp_url: str, settings: WorkerSettings, pool: Pool, wire: Wire, tmp_path: Path
) -> None:
    granted = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        with (
            sync.ExportRuns.connect(amqp_url, spool=tmp_path, timeout_s=1) as runs,
            runs.export("acme", "alice", "csv", ["taxi-17"], lease_s=LEASE_S) as export,
        ):
            loop.call_soon_threadsafe(granted.set)
            while True:
                export.check_lease()
                never.wait(POLL_S)

    never = threading.Event()
    async with running_worker(settings, pool):
        await wire.ready()
        working = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.wait_for(granted.wait(), WAIT_S)
    with pytest.raises(LeaseLost):
        await working


@pytest.mark.usefixtures("worker")
async def test_no_answer_is_an_exception_of_a_thread(amqp_url: str) -> None:
    def work() -> None:
        with sync.ExportRuns.connect(amqp_url, timeout_s=0) as runs:
            runs.check_claims("acme", ["taxi-17"])

    with pytest.raises(NoAnswer):
        await asyncio.to_thread(work)


async def test_a_client_that_was_closed_says_so(amqp_url: str) -> None:
    def work() -> None:
        with sync.ExportRuns.connect(amqp_url, timeout_s=WAIT_S) as runs:
            pass
        runs.check_claims("acme", ["taxi-17"])

    with pytest.raises(RuntimeError, match="closed, or made before a fork"):
        await asyncio.to_thread(work)
