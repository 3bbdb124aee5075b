"""A short story told by real services: events go in, answers come out, everything is stopped again.

Run it with `make demo`.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from local.services import Services, services
from schema import operations
from schema.events import RUN_CREATED, RUN_FINISHED
from schema.requests import CheckClaims, FindRunsByClaimId, GetExportHistory, ListDoubleExports, ReserveClaims
from worker import tables
from worker.client import Client, Unreachable, open_client
from worker.console import out as console
from worker.settings import BrokerSettings

COMMAND: Final = str(Path(sys.executable).with_name("export-runs"))
READY_TIMEOUT_S: Final = 30
STOP_TIMEOUT_S: Final = 30
POLL_S: Final = 0.1
ORG: Final = f"acme-{uuid4().hex[:6]}"
"""A new organisation each time: with services of your own, the last demo may still be in them."""


def main() -> None:
    """Bring everything up, tell the story, stop what was started."""
    with services(lambda line: console.print(line, style="dim", markup=False)) as running:
        environment = {
            **os.environ,
            "EXPORT_RUNS_AMQP_URL": running.amqp_url,
            "EXPORT_RUNS_DATABASE_URL": running.database_url,
            "EXPORT_RUNS_LOG_LEVEL": "error",
        }
        subprocess.run([COMMAND, "migrate"], env=environment, check=True)
        with running_worker(environment):
            asyncio.run(story(running))
        chapter("The event that could not be processed waits in its dead-letter queue, with the reason")
        show = [COMMAND, "dead-letters", "list", "--queue", RUN_CREATED, "--newer-than", "5m"]
        subprocess.run(show, env=environment, check=True)
    console.print("\nEverything that was started is stopped again.", style="dim")


@contextmanager
def running_worker(environment: dict[str, str]) -> Iterator[None]:
    """`export-runs worker` as a process of its own, ended with SIGTERM."""
    with subprocess.Popen([COMMAND, "worker"], env=environment) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


async def story(running: Services) -> None:
    """What exporters publish in a day, and what can be asked afterwards."""
    settings = BrokerSettings.model_validate({"amqp_url": running.amqp_url})
    await _until_answered(settings)
    async with open_client(settings) as client:
        chapter("Exporters publish what happened, some of it twice, out of order, or wrong")
        runs = await _publish_the_day(client)
        await _until_stored(client, runs)

        chapter(f"The history panel: runs of {ORG}, newest first")
        page = await client.call(operations.GET_EXPORT_HISTORY, GetExportHistory(org_id=ORG))
        tables.show_history(console, page)

        chapter("The Double-Export Guard, before the next export: which of these have gone out?")
        asked = ["taxi-17", "hotel-4", "lunch-9", "train-1", "parking-2"]
        checked = await client.call(operations.CHECK_CLAIMS, CheckClaims(org_id=ORG, claim_ids=asked))
        tables.show_checked_claims(console, checked)
        console.print(
            "hotel-4 was skipped, train-1 was in a run that failed, parking-2 was never seen: they may go out."
        )

        chapter("The race: two exporters ask at the same moment whether parking-2 has gone out, and both hear no")
        await _race(client, reserving=False)
        chapter("The same with a reservation before each export")
        await _race(client, reserving=True)
        chapter("What went out twice is on record, and was published to export-runs.alerts")
        doubles = await client.call(operations.LIST_DOUBLE_EXPORTS, ListDoubleExports(org_id=ORG))
        tables.show_double_exports(console, doubles)

        chapter("An auditor: which runs carried train-1?")
        found = await client.call(operations.FIND_RUNS_BY_CLAIM_ID, FindRunsByClaimId(claim_id="train-1", org_id=ORG))
        tables.show_found_runs(console, found)


def chapter(title: str) -> None:
    """A heading."""
    console.print()
    console.print(f"[bold]{title}")


async def _publish_the_day(client: Client) -> int:
    """Publish the events of three runs; returns how many runs."""
    morning = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)

    def event(run_id: str, minutes: int, **facts: Any) -> dict[str, Any]:
        occurred_at = (morning + timedelta(minutes=minutes)).isoformat()
        return {
            "eventId": str(uuid4()),
            "schemaVersion": 1,
            "occurredAt": occurred_at,
            "runId": run_id,
            "orgId": ORG,
            **facts,
        }

    async def publish(event_type: str, body: dict[str, Any], remark: str) -> None:
        await client.publish_event(event_type, json.dumps(body).encode())
        console.print(f"  {event_type:<13} {body['runId'][:8]}  {remark}")

    first, second, third = (str(uuid4()) for _ in range(3))
    created = event(first, 0, triggeredBy="alice", format="csv", targetSystem="ledger")
    await publish(RUN_CREATED, created, "alice starts an export")
    await publish(RUN_CREATED, created, "the same event again: at least once means sometimes twice")
    await publish(
        RUN_FINISHED,
        event(first, 2, status="completed", claimIds=["taxi-17", "lunch-9"], externalAckId="ack-1"),
        "it went out, with two claims",
    )
    await publish(
        RUN_FINISHED,
        event(
            second,
            63,
            status="partial",
            claimIds=["flight-3"],
            skippedClaims=[{"claimId": "hotel-4", "reason": "no receipt"}],
        ),
        "another run has ended, before we heard that it started",
    )
    await publish(RUN_CREATED, event(second, 60, triggeredBy="bob", format="xml"), "the late news: bob started it")
    await publish(RUN_CREATED, event(third, 120, triggeredBy="carol", format="csv"), "carol starts one")
    await publish(
        RUN_FINISHED,
        event(
            third,
            121,
            status="failed",
            claimIds=["train-1"],
            error={"code": "LEDGER_DOWN", "detail": "connection refused"},
        ),
        "it failed: its claim may go out again",
    )
    await publish(
        RUN_CREATED,
        {**event(str(uuid4()), 150, triggeredBy="mallory", format="csv"), "occurredAt": "yesterday"},
        "an event that nobody can date",
    )
    return 3


async def _race(client: Client, *, reserving: bool) -> None:
    """Two exporters want the same claim; each looks first, then pays."""
    claim_id = "parking-3" if reserving else "parking-2"
    runs = [uuid4(), uuid4()]

    async def may_export(run_id: UUID) -> bool:
        if reserving:
            request = ReserveClaims(org_id=ORG, run_id=run_id, claim_ids=[claim_id])
            return (await client.call(operations.RESERVE_CLAIMS, request)).granted == [claim_id]
        asked = CheckClaims(org_id=ORG, claim_ids=[claim_id])
        return (await client.call(operations.CHECK_CLAIMS, asked)).unexported == [claim_id]

    allowed = await asyncio.gather(*(may_export(run_id) for run_id in runs))
    for run_id, allows in zip(runs, allowed, strict=True):
        heard = ("granted" if allows else "refused") if reserving else ("not exported" if allows else "exported")
        console.print(f"  {str(run_id)[:8]} hears: {heard}{' and pays' if allows else ''}")
        if allows:
            finished = {
                "eventId": str(uuid4()),
                "schemaVersion": 1,
                "occurredAt": datetime.now(UTC).isoformat(),
                "runId": str(run_id),
                "orgId": ORG,
                "status": "completed",
                "claimIds": [claim_id],
            }
            await client.publish_event(RUN_FINISHED, json.dumps(finished).encode())
    await _until_exported(client, claim_id, sum(allowed))
    console.print(f"  {claim_id} went out {'once' if sum(allowed) == 1 else 'twice'}")


async def _until_exported(client: Client, claim_id: str, times: int) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            checked = await client.call(operations.CHECK_CLAIMS, CheckClaims(org_id=ORG, claim_ids=[claim_id]))
            if checked.exported and len(checked.exported[0].runs) == times:
                return
            await asyncio.sleep(POLL_S)


async def _until_answered(settings: BrokerSettings) -> None:
    """Wait for the worker. Before it has declared its exchanges, asking costs a connection."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            try:
                async with open_client(settings) as client:
                    await client.call(operations.CHECK_CLAIMS, CheckClaims(org_id=ORG, claim_ids=["none"]))
                return
            except Unreachable:
                await asyncio.sleep(POLL_S)


async def _until_stored(client: Client, runs: int) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            page = await client.call(operations.GET_EXPORT_HISTORY, GetExportHistory(org_id=ORG))
            if len(page.runs) == runs and all(run.finished_at and run.triggered_by for run in page.runs):
                return
            await asyncio.sleep(POLL_S)


if __name__ == "__main__":
    main()
