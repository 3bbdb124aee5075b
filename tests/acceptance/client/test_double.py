"""The double of `export_runs_client.testing` does what a worker does: each behaviour is tried with both."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from export_runs_client import (
    Conflict,
    ExportRuns,
    InvalidRequest,
    NoAnswer,
    ReservationMode,
    RunNotFound,
    RunStatus,
    RunTrigger,
    Unavailable,
)
from export_runs_client.schema.errors import ErrorCode
from export_runs_client.testing import ServiceDouble
from tests.wire import POLL_S, WAIT_S, Wire

ORG = "acme"


@dataclass
class Served:
    """A client, and a way to let time pass at its service."""

    runs: ExportRuns
    pass_time: Callable[[float], Awaitable[None]]

    async def until_exported(self, *claim_ids: str) -> None:
        """Wait until these claims are exported."""
        async with asyncio.timeout(WAIT_S):
            while len((await self.runs.check_claims(ORG, claim_ids)).exported) < len(claim_ids):
                await asyncio.sleep(POLL_S)


@asynccontextmanager
async def served_by_double(folder: Path) -> AsyncIterator[Served]:
    double = ServiceDouble()

    async def advance(seconds: float) -> None:
        double.advance(seconds)

    async with double.connect(spool=folder) as runs:
        yield Served(runs, advance)


@asynccontextmanager
async def served_by_worker(folder: Path, url: str) -> AsyncIterator[Served]:
    async with Wire.connect(url) as wire:
        await wire.ready()
    async with ExportRuns.connect(url, spool=folder, timeout_s=WAIT_S) as runs:
        yield Served(runs, asyncio.sleep)


@pytest.fixture(params=["double", "worker"])
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Served]:
    if request.param == "double":
        return served_by_double(tmp_path)
    request.getfixturevalue("worker")
    return served_by_worker(tmp_path, request.getfixturevalue("amqp_url"))


@pytest.fixture
async def served(serving: AbstractAsyncContextManager[Served]) -> AsyncIterator[Served]:
    """Each test that takes this runs twice."""
    async with serving as served:
        yield served


async def test_an_export_and_what_is_seen_of_it(served: Served) -> None:
    runs = served.runs
    async with runs.export(ORG, "alice", "csv", ["taxi-1", "hotel-2"]) as export:
        during = await runs.check_claims(ORG, ["hotel-2", "lunch-3"])
        await export.paying("taxi-1")
        await export.exported("taxi-1")
        await export.skipped("hotel-2", reason="no receipt")
    await served.until_exported("taxi-1")
    assert [each.claim_id for each in during.reserved] == ["hotel-2"]
    after = await runs.check_claims(ORG, ["lunch-3", "hotel-2", "taxi-1"])
    assert after.unexported == ["lunch-3", "hotel-2"]
    assert [(each.run_id, each.status) for each in after.exported[0].runs] == [(export.run_id, RunStatus.COMPLETED)]
    run = await runs.get_export_run_by_id(export.run_id, org_id=ORG)
    assert (run.status, run.claim_ids, run.claim_count, run.skipped_count) == (RunStatus.COMPLETED, ["taxi-1"], 1, 1)
    assert (run.triggered_by, run.format, [each.claim_id for each in run.skipped_claims]) == (
        "alice",
        "csv",
        ["hotel-2"],
    )
    found = await runs.find_runs_by_claim_id("hotel-2", org_id=ORG)
    assert [(each.run_id, each.claim_outcome) for each in found.runs] == [(export.run_id, "skipped")]


async def test_a_reservation_is_granted_once_and_renewed(served: Served) -> None:
    runs, first, second = served.runs, uuid4(), uuid4()
    granted = await runs.reserve_claims(ORG, first, ["a", "b"])
    renewed = await runs.reserve_claims(ORG, first, ["a", "b"])
    assert granted.granted == renewed.granted == ["a", "b"]
    assert granted.fencing_token == renewed.fencing_token
    refused = await runs.reserve_claims(ORG, second, ["c", "a"])
    assert (refused.granted, [(each.claim_id, each.reason, each.run_id) for each in refused.conflicts]) == (
        [],
        [("a", "reserved", first)],
    )
    assert (refused.expires_at, refused.fencing_token) == (None, None)
    some = await runs.reserve_claims(ORG, second, ["c", "a"], mode=ReservationMode.AVAILABLE)
    assert some.granted == ["c"]
    assert (await runs.reserve_claims("other", second, ["a"])).granted == ["a"]
    assert (await runs.release_claims(ORG, first, ["a"])).released_count == 1
    assert (await runs.release_claims(ORG, first)).released_count == 1
    assert (await runs.check_claims(ORG, ["a", "b"])).unexported == ["a", "b"]


async def test_a_lease_expires(served: Served) -> None:
    runs, first, second = served.runs, uuid4(), uuid4()
    before = await runs.reserve_claims(ORG, first, ["a"], ttl_seconds=1)
    await served.pass_time(1.5)
    refused = await runs.reserve_claims(ORG, second, ["a"])
    assert [each.reason for each in refused.conflicts] == ["expired"]
    assert [each.claim_id for each in (await runs.check_claims(ORG, ["a"])).reserved] == ["a"]
    taken = await runs.reserve_claims(ORG, second, ["a"], take_expired=True)
    assert taken.granted == ["a"]
    assert taken.fencing_token is not None
    assert before.fencing_token is not None
    assert taken.fencing_token > before.fencing_token


async def test_a_run_by_request(served: Served) -> None:
    runs = served.runs
    run = await runs.create_export_run(ORG, "alice", "csv", trigger=RunTrigger.MANUAL)
    assert (run.status, run.trigger, run.claim_count) == (RunStatus.PENDING, "manual", 0)
    await runs.reserve_claims(ORG, run.run_id, ["a", "b"])
    ended = await runs.update_export_run_status(run.run_id, RunStatus.PARTIAL, ["a"])
    assert (ended.status, ended.claim_count) == (RunStatus.PARTIAL, 1)
    assert (await runs.update_export_run_status(run.run_id, RunStatus.PARTIAL, ["a"])).status == RunStatus.PARTIAL
    with pytest.raises(Conflict):
        await runs.update_export_run_status(run.run_id, RunStatus.FAILED, ["a"])
    with pytest.raises(Conflict):
        await runs.reserve_claims(ORG, run.run_id, ["c"])
    checked = await runs.check_claims(ORG, ["a", "b"])
    assert ([each.claim_id for each in checked.exported], checked.unexported) == (["a"], ["b"])
    conflict = (await runs.reserve_claims(ORG, uuid4(), ["a"])).conflicts[0]
    assert (conflict.reason, conflict.run_id, conflict.expires_at) == ("exported", run.run_id, None)


async def test_the_history_and_what_is_not_there(served: Served) -> None:
    runs = served.runs
    made = []
    for name in ("alice", "bob"):
        made.append((await runs.create_export_run(ORG, name, "csv")).run_id)
        await served.pass_time(0.05)
    page = await runs.get_export_history(ORG, limit=1)
    assert ([each.run_id for each in page.runs], page.total) == (made[:0:-1], 2)
    with pytest.raises(RunNotFound):
        await runs.get_export_run_by_id(uuid4())
    with pytest.raises(RunNotFound):
        await runs.get_export_run_by_id(made[0], org_id="other")
    with pytest.raises(InvalidRequest):
        await runs.check_claims(ORG, [" "])


async def test_spellings_of_a_claim(served: Served) -> None:
    runs, run_id = served.runs, uuid4()
    assert (await runs.reserve_claims(ORG, run_id, ["cafe\u0301"])).granted == ["cafe\u0301"]
    refused = await runs.reserve_claims(ORG, uuid4(), [" caf\u00e9"])
    assert [each.claim_id for each in refused.conflicts] == [" caf\u00e9"]


async def test_errors_and_silence_can_be_told_to_happen() -> None:
    double = ServiceDouble()
    async with double.connect(timeout_s=0.5) as runs:
        double.fail_next(ErrorCode.UNAVAILABLE)
        assert (await runs.check_claims(ORG, ["a"])).unexported == ["a"]  # the client asks once more
        double.fail_next(ErrorCode.UNAVAILABLE, ErrorCode.UNAVAILABLE)
        with pytest.raises(Unavailable):
            await runs.check_claims(ORG, ["a"])
        double.is_silent = True
        with pytest.raises(NoAnswer):
            await runs.check_claims(ORG, ["a"])


async def test_what_is_not_played_is_said() -> None:
    async with ServiceDouble().connect() as runs:
        with pytest.raises(NotImplementedError, match="the double does not play ExplainClaim"):
            await runs.explain_claim(ORG, "a")
