"""Nothing that was paid is forgotten: by a process that is killed at any step, or while RabbitMQ is away."""

import asyncio
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from export_runs_client import ExportRuns, delivery
from export_runs_client.connection import open_connection
from export_runs_client.delivery import deliver_left
from export_runs_client.spool import ClaimRecord, Outcome, new_spool, spool_files
from tests.chaos.proxy import Proxy
from tests.commands import COMMAND_TIMEOUT_S, environment
from tests.resilience.client_exporter import CLAIM_IDS, paid, run_exporter
from tests.resilience.conftest import through
from tests.wire import POLL_S, WAIT_S, Wire, run_created
from worker.settings import WorkerSettings

KILLED = (-9, 255)
"""asyncio says 255 where it could not learn how a process ended."""
EXPORTERS_AT_ONCE = 4


async def only_run(wire: Wire, org_id: str) -> str:
    """Wait until the only run of an organisation is stored with its start and its end."""
    async with asyncio.timeout(WAIT_S):
        while True:
            for run in (await wire.result("get-export-history", orgId=org_id))["runs"]:
                if run["status"] != "pending" and run["triggeredBy"]:
                    return str(run["runId"])
            await asyncio.sleep(POLL_S)


async def judge(wire: Wire, org_id: str, folder: Path) -> str:
    """Compare what the service knows of an organisation with what its ledger has paid; returns how its run ended."""
    run = await wire.until_run(await only_run(wire, org_id))
    out = run["claimIds"]
    checked = await wire.check(org_id, *CLAIM_IDS)
    assert sorted(claim["claimId"] for claim in checked["exported"]) == out
    assert checked["reserved"] == []
    assert set(paid(folder)) <= set(out), "a payment is forgotten"
    for claim_id in set(out) - set(paid(folder)):
        assert run["error"]["code"] == "IN_DOUBT"
        assert claim_id in run["error"]["detail"]
    assert (run["status"] == "failed") == (out == [])
    return str(run["status"])


@pytest.mark.usefixtures("worker")
async def test_an_exporter_that_is_killed_at_any_step_forgets_no_payment(
    amqp_url: str, wire: Wire, tmp_path: Path
) -> None:
    async def killed_at(step: int) -> str:
        folder, org_id = tmp_path / str(step), f"acme-{step}"
        folder.mkdir()
        async with at_once:
            assert await run_exporter(amqp_url, folder, org_id, step) in KILLED
        published = [await deliver_left(connection, path) for path in spool_files(folder / "spool")]
        if not any(published) and not paid(folder):
            return "never began"
        return await judge(wire, org_id, folder)

    (tmp_path / "all").mkdir()
    assert await run_exporter(amqp_url, tmp_path / "all", "acme-all", -1) == 0
    assert await judge(wire, "acme-all", tmp_path / "all") == "completed"
    steps = int((tmp_path / "all" / "steps").read_text(encoding="utf-8"))
    at_once = asyncio.Semaphore(EXPORTERS_AT_ONCE)
    async with open_connection([amqp_url], "a test") as connection:
        endings = await asyncio.gather(*(killed_at(step) for step in range(steps)))
    assert set(endings) == {"never began", "failed", "partial", "completed"}


@pytest.mark.usefixtures("worker")
async def test_the_next_start_reports_what_a_dead_process_left(amqp_url: str, wire: Wire, tmp_path: Path) -> None:
    """The step is one between a payment and the note of it."""
    step = 0
    while paid(tmp_path) != ["taxi-17"] or not spool_files(tmp_path / "spool"):
        step += 1
        assert await run_exporter(amqp_url, tmp_path, f"acme-{step}", step) in KILLED
    async with ExportRuns.connect(amqp_url, spool=tmp_path / "spool", timeout_s=WAIT_S):
        run = await wire.until_run(await only_run(wire, f"acme-{step}"))
    assert (run["status"], run["claimIds"]) == ("partial", ["taxi-17"])


@pytest.mark.usefixtures("worker")
async def test_the_spool_keeps_what_cannot_be_published(
    amqp_url: str, wire: Wire, broker_proxy: Proxy, tmp_path: Path, settings: WorkerSettings
) -> None:
    async with broker_proxy.cut():
        async with ExportRuns.connect(through(amqp_url, broker_proxy), spool=tmp_path, timeout_s=0.5) as runs:
            for number in range(3):
                async with runs.export(f"org-{number}", "alice", "csv", ["taxi-17"], reserve=False) as export:
                    await export.paying("taxi-17")
                    await export.exported("taxi-17")
            code, text = await flush_command(settings, str(tmp_path), "--url", through(amqp_url, broker_proxy))
            assert code == 0
            assert text.endswith(f"{spool_files(tmp_path)[0]}: in use by a process\n")  # after what the client warns of
        [path] = spool_files(tmp_path)
        options = "--url", through(amqp_url, broker_proxy), "--timeout-s", "5"
        code, text = await flush_command(settings, str(tmp_path), *options)
        assert (code, f"{path}: not everything is published: connect: " in text) == (1, True)
    assert await flush_command(settings, str(tmp_path)) == (0, f"{path}: 6 published\n")
    assert list(tmp_path.iterdir()) == []
    for number in range(3):
        run = await wire.until_run(await only_run(wire, f"org-{number}"))
        assert (run["status"], run["claimIds"]) == ("completed", ["taxi-17"])


@pytest.mark.usefixtures("worker")
async def test_a_broken_file_stops_none_of_the_others(
    amqp_url: str, wire: Wire, broker_proxy: Proxy, tmp_path: Path, settings: WorkerSettings
) -> None:
    broken = tmp_path / "0.sqlite3"
    broken.write_bytes(b"no database" * 1000)
    async with (
        broker_proxy.cut(),
        ExportRuns.connect(through(amqp_url, broker_proxy), spool=tmp_path, timeout_s=0.1) as runs,
        runs.export("acme", "alice", "csv", ["taxi-17"], reserve=False) as export,
    ):
        await export.paying("taxi-17")
        await export.exported("taxi-17")
    code, text = await flush_command(settings, str(tmp_path))
    assert (code, f"{broken}: cannot be read: " in text, ": 2 published" in text) == (1, True, True)
    run = await wire.until_run(await only_run(wire, "acme"))
    assert run["claimIds"] == ["taxi-17"]


@pytest.mark.usefixtures("worker")
async def test_a_run_that_another_version_left_stops_none_of_the_others(
    amqp_url: str, wire: Wire, tmp_path: Path, settings: WorkerSettings
) -> None:
    left = new_spool(tmp_path)
    for run_id in (UUID(int=1), UUID(int=2)):
        created = json.dumps(run_created(runId=str(run_id))).encode()
        left.begin_run(run_id, "org-1", "run-created", created)
        left.write_claims(run_id, [ClaimRecord("taxi-9", Outcome.IN_DOUBT)])
    left._database.execute("UPDATE claims SET outcome = 'later' WHERE run_id = ?", (str(UUID(int=1)),))
    left.close()
    async with (
        ExportRuns.connect(amqp_url, spool=tmp_path, timeout_s=WAIT_S) as runs,
        runs.export("acme", "alice", "csv", ["taxi-17"], reserve=False) as export,
    ):
        await export.paying("taxi-17")
        await export.exported("taxi-17")
    assert (await wire.until_run(await only_run(wire, "acme")))["claimIds"] == ["taxi-17"]
    run = await wire.until_run(str(UUID(int=2)))
    assert (run["status"], run["claimIds"]) == ("partial", ["taxi-9"])
    [path] = spool_files(tmp_path)
    code, text = await flush_command(settings, str(tmp_path))
    assert (code, f"{path}: cannot be read: another version of this client left 1 run, and" in text) == (1, True)


@pytest.mark.usefixtures("worker")
async def test_an_end_that_finds_no_room_on_the_disk_is_written_when_there_is_some(
    amqp_url: str, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process lives on for weeks, perhaps: nobody else reports what it has paid. Other runs do not wait for it."""
    monkeypatch.setattr(delivery, "PAUSE_MAX_S", 0.05)
    async with ExportRuns.connect(amqp_url, spool=tmp_path, timeout_s=WAIT_S) as runs:
        assert runs._delivery is not None
        database = runs._delivery.spool._database
        run_ids: list[UUID] = []

        async def pay(claim_id: str, end: Callable[[], None]) -> None:
            async with runs.export("acme", "alice", "csv", [claim_id]) as export:
                run_ids.append(export.run_id)
                await export.paying(claim_id)
                await export.exported(claim_id)
                end()

        def fail_without_room() -> None:
            [pages] = database.execute("PRAGMA page_count").fetchone()
            database.execute(f"PRAGMA max_page_count = {pages}")
            raise RuntimeError("x" * 9_000)  # its text takes more than a page

        with pytest.raises(sqlite3.OperationalError, match="full"):
            await pay("taxi-17", fail_without_room)
        await pay("hotel-4", lambda: None)
        await wire.until_run(str(run_ids[1]), status="completed")
        assert (await wire.check("acme", "taxi-17"))["exported"] == []
        database.execute("PRAGMA max_page_count = 1000000")
        run = await wire.until_run(str(run_ids[0]), status="partial")
    assert run["claimIds"] == ["taxi-17"]
    assert spool_files(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "there is no folder nowhere"),
        ([".", "--url", "http://x"], "each URL must begin with amqp://"),
        ([".", "--url", f"amqp://{'h' * 64}/"], "each URL must name a host"),
    ],
)
async def test_a_flush_that_cannot_begin_says_why(settings: WorkerSettings, arguments: list[str], text: str) -> None:
    code, output = await flush_command(settings, *arguments)
    assert (code, text in output, "Traceback" in output) == (2, True, False)


async def flush_command(settings: WorkerSettings, *arguments: str) -> tuple[int | None, str]:
    """Run `export-runs-client flush`; its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "export_runs_client",
        "flush",
        *arguments,
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    return process.returncode, out.decode()
