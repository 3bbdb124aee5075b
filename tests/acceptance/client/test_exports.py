"""An export by the client: what is reserved, what is reported, and what a crash of the exporter's code leaves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from uuid import UUID

import pytest

from export_runs_client import (
    Artifact,
    ControlTotal,
    Export,
    ExportRuns,
    InvalidRequest,
    NoAnswer,
    Override,
    ReservationMode,
    SpoolFull,
)
from export_runs_client import spool as spool_module
from tests.conftest import running_worker
from tests.wire import WAIT_S, Json, Wire, run_finished
from worker.database.pool import Pool
from worker.settings import WorkerSettings


@pytest.fixture
async def runs(amqp_url: str, tmp_path: Path) -> AsyncIterator[ExportRuns]:
    """A client that may export."""
    async with ExportRuns.connect(amqp_url, spool=tmp_path, timeout_s=WAIT_S) as runs:
        yield runs


async def pay(export: Export, *claim_ids: str, amount: str | None = None) -> None:
    """Pay claims as an exporter does."""
    for claim_id in claim_ids:
        await export.paying(claim_id)
        await export.exported(claim_id, amount=amount)


async def then_raise(work: Awaitable[None], error: Exception) -> None:
    """An exporter that fails after some work."""
    await work
    raise error


async def ended(wire: Wire, export: Export, status: str) -> Json:
    return await wire.until_run(str(export.run_id), status=status, triggeredBy="alice")


async def exported_before(wire: Wire, claim_id: str) -> UUID:
    finished = run_finished(orgId="acme", claimIds=[claim_id])
    await wire.publish("run-finished", finished)
    await wire.until_run(finished["runId"])
    return UUID(finished["runId"])


class Unspeakable(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("none")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("error", "code"), [(Unspeakable(), "Unspeakable"), (type("a\nb", (Exception,), {})("c"), "Exception")]
)
async def test_an_error_that_cannot_be_told_hides_no_payment(
    runs: ExportRuns, wire: Wire, error: Exception, code: str
) -> None:
    with pytest.raises(type(error)):
        async with runs.export("acme", "alice", "csv", ["taxi-1"]) as export:
            await then_raise(pay(export, "taxi-1"), error)
    run = await ended(wire, export, "partial")
    assert (run["claimIds"], run["error"]["code"]) == (["taxi-1"], code)


@pytest.mark.usefixtures("worker")
async def test_an_export_reserves_and_reports_what_went_out(runs: ExportRuns, wire: Wire) -> None:
    claim_ids = ["taxi-17", "hotel-4"]
    async with runs.export("acme", "alice", "csv", claim_ids, scope="chapter 7", trigger=None) as export:
        assert (export.granted, export.conflicts, export.fencing_token) == (claim_ids, [], 1)
        checked = await wire.check("acme", *claim_ids)
        assert {claim["runId"] for claim in checked["reserved"]} == {str(export.run_id)}
        await export.paying("taxi-17", "hotel-4")
        await export.exported("taxi-17", voucher_id="V-1", amount="12.50", currency="EUR")
        await export.exported("hotel-4")
        await export.note(
            artifact=Artifact(key="exports/1.csv", sha256="9f86", size_bytes=2048),
            external_ack_id="ledger-1",
            totals=[ControlTotal(currency="EUR", claim_count=2, amount="20")],
        )
    run = await ended(wire, export, "completed")
    assert (run["claimIds"], run["scope"], run["externalAckId"]) == (sorted(claim_ids), "chapter 7", "ledger-1")
    assert (run["error"], run["artifact"]["sizeBytes"], run["totals"][0]["amount"]) == (None, 2048, "20.00")
    claims = (await wire.result("list-run-claims", runId=run["runId"]))["claims"]
    assert [claim["voucherId"] for claim in claims] == [None, "V-1"]
    assert [claim["claimId"] for claim in (await wire.check("acme", *claim_ids))["exported"]] == claim_ids


@pytest.mark.usefixtures("worker")
async def test_what_was_skipped_is_reported_with_its_reason(runs: ExportRuns, wire: Wire) -> None:
    async with runs.export("acme", "alice", "csv", ["taxi-17", "taxi-9", "taxi-8"]) as export:
        await pay(export, "taxi-17")
        await export.skipped("taxi-9", reason="no account", code="NO_ACCOUNT")
        await export.paying("taxi-8")
        await export.skipped("taxi-8", reason="the ledger refused it")
    run = await ended(wire, export, "completed")
    assert (run["claimIds"], run["claimCount"]) == (["taxi-17"], 1)
    assert run["skippedClaims"] == [
        {"claimId": "taxi-8", "reason": "the ledger refused it"},
        {"claimId": "taxi-9", "reason": "no account", "code": "NO_ACCOUNT"},
    ]


@pytest.mark.usefixtures("worker")
async def test_a_claim_that_has_gone_out_is_a_conflict_and_makes_the_run_partial(runs: ExportRuns, wire: Wire) -> None:
    earlier = await exported_before(wire, "taxi-17")
    async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"]) as export:
        assert export.granted == ["hotel-4"]
        assert [(conflict.claim_id, conflict.reason) for conflict in export.conflicts] == [("taxi-17", "exported")]
        with pytest.raises(ValueError, match="taxi-17 is not granted"):
            await export.paying("taxi-17")
        await pay(export, "hotel-4")
    run = await ended(wire, export, "partial")
    assert run["skippedClaims"] == [
        {"claimId": "taxi-17", "reason": f"it is exported by run {earlier}", "code": "EXPORTED"}
    ]


@pytest.mark.usefixtures("worker")
async def test_an_export_that_is_granted_nothing_fails(runs: ExportRuns, wire: Wire) -> None:
    await exported_before(wire, "taxi-17")
    mode = ReservationMode.ALL_OR_NOTHING
    async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"], mode=mode) as export:
        assert (export.granted, export.fencing_token) == ([], None)
    await ended(wire, export, "failed")


@pytest.mark.usefixtures("worker")
async def test_an_override_exports_a_claim_again(runs: ExportRuns, wire: Wire) -> None:
    await exported_before(wire, "taxi-17")
    override = Override(reason="the money came back", approved_by="bob")
    async with runs.export("acme", "alice", "csv", ["taxi-17"], override=override) as export:
        await pay(export, *export.granted)
    run = await ended(wire, export, "completed")
    assert (run["override"]["approvedBy"], run["claimOverrides"][0]["approvedBy"]) == ("bob", "bob")


@pytest.mark.usefixtures("worker")
async def test_an_exception_makes_the_run_partial_with_its_text(runs: ExportRuns, wire: Wire) -> None:
    with pytest.raises(ConnectionError):
        async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"]) as export:
            await then_raise(pay(export, "taxi-17"), ConnectionError("the ledger is \0away"))
    run = await ended(wire, export, "partial")
    assert (run["claimIds"], run["error"]) == (
        ["taxi-17"],
        {"code": "ConnectionError", "detail": "the ledger is away"},
    )
    assert (await wire.check("acme", "hotel-4"))["unexported"] == ["hotel-4"]


@pytest.mark.usefixtures("worker")
async def test_an_exception_before_the_first_payment_makes_the_run_fail(runs: ExportRuns, wire: Wire) -> None:
    with pytest.raises(KeyError):
        async with runs.export("acme", "alice", "csv", ["taxi-17"]) as export:
            raise KeyError("account")
    assert (await ended(wire, export, "failed"))["error"] == {"code": "KeyError", "detail": "'account'"}
    assert (await wire.check("acme", "taxi-17"))["unexported"] == ["taxi-17"]


@pytest.mark.usefixtures("worker")
async def test_a_claim_in_doubt_counts_as_exported_and_is_named(runs: ExportRuns, wire: Wire) -> None:
    with pytest.raises(TimeoutError):
        async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"]) as export:
            await then_raise(export.paying("taxi-17"), TimeoutError("the ledger did not answer"))
    run = await ended(wire, export, "partial")
    assert (run["claimIds"], run["error"]["code"]) == (["taxi-17"], "IN_DOUBT")
    assert run["error"]["detail"] == (
        "1 of the claims may not have gone out: taxi-17. TimeoutError: the ledger did not answer"
    )


@pytest.mark.usefixtures("worker")
async def test_a_cancelled_export_reports_what_went_out(runs: ExportRuns, wire: Wire) -> None:
    exports: asyncio.Queue[Export] = asyncio.Queue()

    async def work() -> None:
        async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"]) as export:
            await pay(export, "taxi-17")
            exports.put_nowait(export)
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    export = await asyncio.wait_for(exports.get(), WAIT_S)
    working.cancel()
    await asyncio.wait({working})
    assert working.cancelled()
    assert (await ended(wire, export, "partial"))["error"]["code"] == "CancelledError"


@pytest.mark.usefixtures("worker")
async def test_a_claim_is_paid_once_in_an_export(runs: ExportRuns, wire: Wire) -> None:
    async with runs.export("acme", "alice", "csv", ["taxi-17", " taxi-17"]) as export:
        assert export.granted == ["taxi-17"]
        await pay(export, " taxi-17")
        with pytest.raises(ValueError, match="exported already"):
            await export.paying("taxi-17")
        with pytest.raises(ValueError, match="exported already"):
            await export.skipped("taxi-17", reason="no account")
    assert (await ended(wire, export, "completed"))["claimIds"] == ["taxi-17"]


@pytest.mark.usefixtures("worker")
async def test_a_payment_that_was_not_announced_counts_all_the_same(runs: ExportRuns, wire: Wire) -> None:
    with pytest.raises(ValueError, match=r"call paying\(\) before"):
        async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"]) as export:
            await export.exported("taxi-17")
    assert (await ended(wire, export, "partial"))["claimIds"] == ["taxi-17"]


@pytest.mark.usefixtures("worker")
async def test_a_payment_with_wrong_details_counts_all_the_same(runs: ExportRuns, wire: Wire) -> None:
    with pytest.raises(InvalidRequest, match="amount"):
        async with runs.export("acme", "alice", "csv", ["taxi-17", "hotel-4"]) as export:
            await pay(export, "taxi-17", amount="12,50")
    run = await ended(wire, export, "partial")
    assert (run["claimIds"], run["error"]["code"]) == (["taxi-17"], "InvalidRequest")


@pytest.mark.usefixtures("worker")
async def test_without_a_reservation_only_if_asked_for(runs: ExportRuns, wire: Wire) -> None:
    async with runs.export("acme", "alice", "csv", ["taxi-17"], reserve=False) as export:
        assert (export.granted, export.fencing_token) == (["taxi-17"], None)
        assert (await wire.check("acme", "taxi-17"))["reserved"] == []
        await pay(export, "taxi-17")
    await ended(wire, export, "completed")


@pytest.mark.parametrize("reserve", [True, False])
async def test_what_is_not_valid_is_found_before_anything_is_done(
    runs: ExportRuns, tmp_path: Path, reserve: bool
) -> None:
    with pytest.raises(InvalidRequest, match=r"claimIds\.1"):
        async with runs.export("acme", "alice", "csv", ["taxi-17", " "], reserve=reserve):
            pytest.fail("it began")
    with pytest.raises(InvalidRequest, match="triggeredBy"):
        async with runs.export("acme", "", "csv", ["taxi-17"], reserve=reserve):
            pytest.fail("it began")
    with pytest.raises(ValueError, match="at most 3,145,728 bytes"):
        async with runs.export("acme", "alice", "csv", [f"{n:0200}" for n in range(15_600)], reserve=reserve):
            pytest.fail("it began")


async def test_an_export_needs_a_spool(amqp_url: str) -> None:
    async with ExportRuns.connect(amqp_url) as runs:
        with pytest.raises(ValueError, match="needs a spool"):
            async with runs.export("acme", "alice", "csv", ["taxi-17"]):
                pytest.fail("it began")


async def test_nothing_is_paid_without_an_answer_and_the_claims_are_freed(
    amqp_url: str, settings: WorkerSettings, pool: Pool, wire: Wire, tmp_path: Path
) -> None:
    async with running_worker(settings, pool):
        await wire.ready()
    async with ExportRuns.connect(amqp_url, spool=tmp_path, timeout_s=0.5) as runs:
        with pytest.raises(NoAnswer):
            async with runs.export("acme", "alice", "csv", ["taxi-17"]):
                pytest.fail("it began")
    async with running_worker(settings, pool):
        await wire.ready()
        async with asyncio.timeout(WAIT_S):
            while not (history := (await wire.result("get-export-history", orgId="acme"))["runs"]):
                await asyncio.sleep(0.1)
        await wire.until_run(history[0]["runId"], status="failed", triggeredBy="alice")
        assert (await wire.check("acme", "taxi-17"))["unexported"] == ["taxi-17"]


@pytest.mark.usefixtures("worker")
async def test_the_largest_export_is_reported_whole(runs: ExportRuns, wire: Wire) -> None:
    claim_ids = [f"{number:0200}" for number in range(10_000)]
    async with runs.export("acme", "alice", "csv", claim_ids) as export:
        await export.paying(*export.granted)
        await export.exported(*export.granted, voucher_url="https://ledger.example/" + "v" * 400)
    run = await ended(wire, export, "completed")
    assert run["claimCount"] == len(claim_ids)


@pytest.mark.usefixtures("worker")
async def test_a_full_spool_begins_no_export(runs: ExportRuns, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    async with runs.export("acme", "alice", "csv", ["taxi-17"]) as export:
        monkeypatch.setattr(spool_module, "SPOOL_BYTES_MAX", 0)
        with pytest.raises(SpoolFull):
            async with runs.export("acme", "alice", "csv", ["hotel-4"]):
                pytest.fail("it began")
        await pay(export, "taxi-17")
    await ended(wire, export, "completed")


@pytest.mark.usefixtures("worker")
async def test_a_spool_is_empty_when_everything_is_reported(amqp_url: str, tmp_path: Path, wire: Wire) -> None:
    folder = tmp_path / "new" / "spool"
    async with (
        ExportRuns.connect(amqp_url, spool=folder, timeout_s=WAIT_S) as runs,
        runs.export("acme", "alice", "csv", ["taxi-17"]) as export,
    ):
        await pay(export, "taxi-17")
        assert len(list(folder.glob("*.sqlite3"))) == 1
    assert list(folder.iterdir()) == []
    await ended(wire, export, "completed")


@pytest.mark.usefixtures("worker")
async def test_of_exporters_at_the_same_time_one_is_granted_a_claim(runs: ExportRuns, wire: Wire) -> None:
    granted = []

    async def export() -> None:
        async with runs.export("acme", "alice", "csv", ["taxi-17"]) as export:
            granted.extend(export.granted)
            await pay(export, *export.granted)

    await asyncio.gather(*(export() for _ in range(5)))
    assert granted == ["taxi-17"]
    assert (await wire.result("list-double-exports", orgId="acme"))["doubleExports"] == []


@pytest.mark.usefixtures("worker")
async def test_events_carry_their_organisation(runs: ExportRuns, settings: WorkerSettings, wire: Wire) -> None:
    queue = await wire.channel.declare_queue(exclusive=True)
    await queue.bind("export-runs.events", "run-created")
    await queue.bind("export-runs.events", "run-finished")
    async with runs.export("acme", "alice", "csv", ["taxi-17"]) as export:
        await pay(export, "taxi-17")
    await ended(wire, export, "completed")
    messages = [await queue.get(no_ack=True), await queue.get(no_ack=True)]
    assert {message.type for message in messages} == {"run-created", "run-finished"}
    assert {message.headers["org-id"] for message in messages} == {"acme"}
    assert {message.delivery_mode for message in messages} == {2}
    assert len({message.message_id for message in messages}) == 2


@pytest.mark.usefixtures("worker")
async def test_a_lease_must_have_a_time(runs: ExportRuns, wire: Wire) -> None:
    with pytest.raises(InvalidRequest, match="ttlSeconds"):
        async with runs.export("acme", "alice", "csv", ["taxi-17"], lease_s=0):
            pytest.fail("it began")
    assert (await wire.result("get-export-history", orgId="acme"))["runs"] == []
