"""The programs in examples/ do what they say, and export nothing if the service does not answer."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import COMMAND_TIMEOUT_S, environment
from tests.conftest import running_worker
from tests.pages import ROOT
from tests.wire import POLL_S, WAIT_S, Wire, run_created, run_finished
from worker.database.pool import Pool
from worker.settings import WorkerSettings

LEASE_S = 8


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code and the output of an example."""

    code: int
    out: str
    err: str


@pytest.fixture
def spool(tmp_path: Path) -> str:
    """The option of the exporter that names its spool."""
    return f"--spool={tmp_path}"


async def start(settings: WorkerSettings, program: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / program),
        *arguments,
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def end(process: asyncio.subprocess.Process) -> Result:
    out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


async def run(settings: WorkerSettings, program: str, *arguments: str) -> Result:
    return await end(await start(settings, program, *arguments))


async def exported(wire: Wire, *claim_ids: str) -> list[str]:
    checked = await wire.result("check-claims", orgId="acme", claimIds=list(claim_ids))
    return [claim["claimId"] for claim in checked["exported"]]


async def only_run(wire: Wire) -> str:
    """Wait for a run of the organisation; the id of the only one."""
    async with asyncio.timeout(WAIT_S):
        while not (runs := (await wire.result("get-export-history", orgId="acme"))["runs"]):
            await asyncio.sleep(POLL_S)
    [only] = runs
    run_id: str = only["runId"]
    return run_id


@pytest.mark.usefixtures("worker")
async def test_the_guard_allows_only_unexported_claims(settings: WorkerSettings, wire: Wire) -> None:
    free = await run(settings, "guard.py", "acme", "taxi-17", "hotel-4")
    assert (free.code, free.out) == (0, "taxi-17: may be exported\nhotel-4: may be exported\n")
    finished = run_finished(orgId="acme", claimIds=["taxi-17"])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    reserved = await wire.result("reserve-claims", orgId="acme", runId=run_created()["runId"], claimIds=["hotel-4"])
    assert reserved["granted"] == ["hotel-4"]
    check = await run(settings, "guard.py", "acme", "taxi-17", "hotel-4", "lunch-9")
    assert check.code == 1
    assert check.out.splitlines()[0] == f"taxi-17: has gone out in {finished['runId']}"
    assert check.out.splitlines()[1].startswith("hotel-4: is reserved by ")
    assert check.out.splitlines()[2] == "lunch-9: may be exported"


async def test_the_guard_says_do_not_export_if_nobody_answers(settings: WorkerSettings) -> None:
    silent = await run(settings, "guard.py", "acme", "taxi-17")
    assert (silent.code, silent.out) == (2, "")
    assert "do not export: " in silent.err


@pytest.mark.usefixtures("worker")
async def test_the_guard_says_do_not_export_if_the_request_is_refused(settings: WorkerSettings) -> None:
    refused = await run(settings, "guard.py", "acme", " ")
    assert (refused.code, refused.out) == (2, "")
    assert "claimIds.0: must not be blank" in refused.err


@pytest.mark.usefixtures("worker")
async def test_the_history_panel_shows_every_run_once_and_the_newest_first(
    settings: WorkerSettings, wire: Wire
) -> None:
    created = [run_created(orgId="acme", occurredAt=f"2026-01-31T09:3{minute}:00Z") for minute in range(5)]
    for event in created:
        await wire.publish("run-created", event)
        await wire.until_run(event["runId"])
    panel = await run(settings, "history_panel.py", "acme")
    assert panel.code == 0
    assert [line.split()[1] for line in panel.out.splitlines()] == [event["runId"] for event in reversed(created)]


@pytest.mark.usefixtures("worker")
async def test_the_exporter_exports_what_it_reserved_and_reports_it(
    settings: WorkerSettings, wire: Wire, spool: str
) -> None:
    export = await run(settings, "export_with_reservation.py", spool, "acme", "taxi-17", "hotel-4")
    assert export.code == 0, export.err
    assert export.out.count("exported ") == 2
    assert (await wire.until_run(await only_run(wire), status="completed"))["claimIds"] == ["hotel-4", "taxi-17"]


@pytest.mark.usefixtures("worker")
async def test_the_exporter_exports_nothing_if_one_claim_is_exported_already(
    settings: WorkerSettings, wire: Wire, spool: str
) -> None:
    finished = run_finished(orgId="acme", claimIds=["taxi-17"])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    export = await run(settings, "export_with_reservation.py", spool, "acme", "taxi-17", "hotel-4")
    assert export.code == 1
    assert f"taxi-17 is exported by {finished['runId']}" in export.err
    assert ("exported " in export.out, await exported(wire, "hotel-4")) == (False, [])


@pytest.mark.usefixtures("worker")
async def test_the_exporter_renews_its_lease(settings: WorkerSettings, wire: Wire, spool: str) -> None:
    claim_ids = [f"c-{number}" for number in range(8)]
    options = "--lease-s", str(LEASE_S), "--pause-s", "1.25"
    export = await run(settings, "export_with_reservation.py", spool, "acme", *claim_ids, *options)
    assert export.code == 0, export.err
    assert (await wire.until_run(await only_run(wire), status="completed"))["claimIds"] == claim_ids


async def test_the_exporter_stops_if_it_cannot_renew_its_lease(
    settings: WorkerSettings, pool: Pool, wire: Wire, spool: str
) -> None:
    claim_ids = [f"c-{number}" for number in range(8)]
    options = "--lease-s", str(LEASE_S), "--pause-s", "1.25"
    async with running_worker(settings, pool):
        process = await start(settings, "export_with_reservation.py", spool, "acme", *claim_ids, *options)
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"exported c-0 ")
    export = await end(process)
    assert export.code == 1
    assert "stopped: two thirds of the lease are over" in export.err
    out = ["c-0", *(line.split()[1] for line in export.out.splitlines() if line.startswith("exported "))]
    assert 0 < len(out) < len(claim_ids)
    async with running_worker(settings, pool):
        await wire.ready()
        stopped = await wire.until_run(await only_run(wire), status="partial")
        assert stopped["claimIds"][: len(out)] == out
        assert (len(stopped["claimIds"]) > len(out)) == (stopped["error"]["code"] == "IN_DOUBT")
        checked = await wire.result("check-claims", orgId="acme", claimIds=claim_ids)
    assert [claim["claimId"] for claim in checked["exported"]] == stopped["claimIds"]
    assert checked["reserved"] == []


async def test_the_exporter_exports_nothing_if_nobody_answers(
    settings: WorkerSettings, pool: Pool, wire: Wire, spool: str
) -> None:
    async with running_worker(settings, pool):
        await wire.ready()  # from now on the exchanges are there
    export = await run(settings, "export_with_reservation.py", spool, "acme", "taxi-17", "--lease-s", str(LEASE_S))
    assert (export.code, "exported " in export.out) == (1, False)
    assert "stopped: reserve-claims: no answer within" in export.err
    async with running_worker(settings, pool):
        await wire.ready()
        assert (await wire.until_run(await only_run(wire), status="failed"))["claimIds"] == []
