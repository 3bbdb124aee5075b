"""`make demo`: real services import a sheet, store a few events, answer questions and write a report, then they end."""

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

from cli import result_tables
from cli.claim_sentences import show_explained_claim
from cli.console import Exit
from cli.terminal import out
from export_runs_client import ExportRuns, NoAnswer
from export_runs_client.links import Link, open_link
from export_runs_client.schema.events import RUN_CREATED, RUN_FINISHED
from export_runs_client.schema.requests import ExplainClaim
from local.services import services

COMMAND: Final = str(Path(sys.executable).with_name("export-runs"))
READY_TIMEOUT_S: Final = 30
STOP_TIMEOUT_S: Final = 30
POLL_S: Final = 0.1
ORG: Final = f"acme-{uuid4().hex[:6]}"
"""A new organisation each time: with services of your own, the runs of the last demo may still be stored there."""

FOLDER: Final = Path(__file__).parent.parent / "build" / "demo" / ORG
"""Where the sheet and the report are."""

SHEET: Final = """\
Expenses sent to the bookkeeper;;;
Sent on;By;Claim;EUR
12.1.2024;Ann;taxi-2;48,50
;;hotel-1;1.310,00
;;hotel-1;1.310,00
9.2.2024;Ben;taxi-2;48,50
;;ferry-8;22,00
11.3.2024;;;1.380,50
"""
"""A copy of a row, a sum, and a claim that was sent a second time a month later."""

MAPPING: Final = f"""\
run_key = ["Sent on"]
fill_down = ["Sent on", "By"]
date_formats = ["%d.%m.%Y"]
time_zone = "Europe/Berlin"
decimal_sign = ","
thousands_sign = "."
[columns]
claimId = "Claim"
createdAt = "Sent on"
triggeredBy = "By"
amount = "EUR"
[constants]
orgId = "{ORG}"
format = "spreadsheet"
currency = "EUR"
"""
IMPORTED_RUNS: Final = 2


def main() -> None:
    """Start the services and a worker, tell the story, and stop what was started."""
    with services(lambda line: out.print_line(line, style="dim")) as running:
        environment = {
            **os.environ,
            "EXPORT_RUNS_AMQP_URL": running.amqp_url,
            "EXPORT_RUNS_DATABASE_URL": running.database_url,
            "EXPORT_RUNS_LOG_LEVEL": "error",
        }
        subprocess.run([COMMAND, "migrate"], env=environment, check=True)
        with running_worker(environment):
            asyncio.run(_until_answered(running.amqp_url))
            import_sheet(environment)
            asyncio.run(story(running.amqp_url))
        chapter("The event that could not be processed is in its dead-letter queue, with the reason")
        show = [COMMAND, "dead-letters", "list", "--queue", RUN_CREATED, "--newer-than", "5m"]
        subprocess.run(show, env=environment, check=True)
        chapter("The auditor's report, with totals that add up")
        report = [COMMAND, "report", "--org", ORG, "--output", str(FOLDER / "report.html")]
        subprocess.run(report, env=environment, check=True)
    out.print_line()
    out.print_line("Everything that was started is stopped again.", style="dim")


@contextmanager
def running_worker(environment: dict[str, str]) -> Iterator[None]:
    """Run `export-runs worker` as a process of its own, and end it with SIGTERM."""
    with subprocess.Popen([COMMAND, "worker"], env=environment) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def import_sheet(environment: dict[str, str]) -> None:
    """Import what a person kept in a spreadsheet before there was the service."""
    chapter("Before the service a person kept a sheet")
    out.print_text(SHEET)
    FOLDER.mkdir(parents=True, exist_ok=True)
    sheet, mapping = FOLDER / "sheet.csv", FOLDER / "mapping.toml"
    sheet.write_text(SHEET, encoding="utf-8")
    mapping.write_text(MAPPING, encoding="utf-8")
    chapter("It is imported: a row that is no claim is refused, and one claim is found that went out twice")
    command = [COMMAND, "import", str(sheet), "--mapping", str(mapping), "--source", "sheet", "--apply"]
    finished = subprocess.run(command, env=environment)
    assert finished.returncode == Exit.REFUSED


async def story(amqp_url: str) -> None:
    """Exporters publish what happened in a day; afterwards others ask about it.

    They publish over a link of their own: an export of the client would not repeat events, or tell them out of order.
    """
    async with ExportRuns.connect(amqp_url) as runs, open_link(amqp_url, "make demo", None) as link:
        chapter("Exporters publish what happened, some of it twice, out of order, or wrong")
        count = await _publish_the_day(link)
        await _until_stored(runs, IMPORTED_RUNS + count)

        chapter(f"The history panel: runs of {ORG}, newest first")
        result_tables.show_history(out, await runs.get_export_history(ORG))

        chapter("The Double-Export Guard, before the next export: which of these have gone out?")
        checked = await runs.check_claims(ORG, ["taxi-17", "hotel-4", "lunch-9", "train-1", "parking-2"])
        result_tables.show_checked_claims(out, checked)
        out.print_line(
            "hotel-4 was skipped, train-1 was in a run that failed, parking-2 was never seen: they may go out."
        )

        chapter(
            "The race: two exporters ask at the same moment whether parking-2 has gone out; both hear that it has not"
        )
        await _race(runs, link, reserve=False)
        chapter("The same race for parking-3, but each exporter reserves the claim first")
        await _race(runs, link, reserve=True)
        chapter("The ledger refuses parking-3 afterwards: its export is taken back, and another run may export it")
        await _export_again(runs, link, "parking-3")
        chapter("What went out twice is recorded; for parking-2 an alert was published to export-runs.alerts")
        result_tables.show_double_exports(out, await runs.list_double_exports(ORG))

        chapter("An auditor: which runs carried train-1?")
        result_tables.show_found_runs(out, await runs.find_runs_by_claim_id("train-1", org_id=ORG))

        chapter("And why may parking-3 not go out now?")
        explain = ExplainClaim(org_id=ORG, claim_id="parking-3")
        show_explained_claim(out, explain, await runs.explain_claim(explain.org_id, explain.claim_id))


def chapter(title: str) -> None:
    """Print a heading."""
    out.print_line()
    out.print_line(title, style="bold")


async def _publish_the_day(link: Link) -> int:
    """Publish the events of three runs and one bad event. Returns the number of runs."""
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
        await link.publish_event(event_type, ORG, json.dumps(body).encode())
        out.print_line(f"  {event_type:<13} {body['runId'][:8]}  {remark}")

    first, second, third = (str(uuid4()) for _ in range(3))
    created = event(first, 0, triggeredBy="alice", format="csv", targetSystem="ledger")
    await publish(RUN_CREATED, created, "alice starts an export")
    await publish(RUN_CREATED, created, "the same event again: exporters publish at least once")
    await publish(
        RUN_FINISHED,
        event(first, 2, status="completed", claimIds=["taxi-17", "lunch-9"], externalAckId="ack-1"),
        "her export is out, with two claims",
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
        "another run has ended, and its start is not known yet",
    )
    await publish(
        RUN_CREATED, event(second, 60, triggeredBy="bob", format="xml"), "its start comes late: bob started it"
    )
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
        "an event with a time that nobody can read",
    )
    return 3


async def _race(runs: ExportRuns, link: Link, *, reserve: bool) -> None:
    """Two exporters want to export the same claim. Each checks or reserves it first, then pays."""
    claim_id = "parking-3" if reserve else "parking-2"
    run_ids = [uuid4(), uuid4()]

    async def may_export(run_id: UUID) -> bool:
        if reserve:
            return (await runs.reserve_claims(ORG, run_id, [claim_id])).granted == [claim_id]
        return (await runs.check_claims(ORG, [claim_id])).unexported == [claim_id]

    permissions = await asyncio.gather(*(may_export(run_id) for run_id in run_ids))
    for run_id, permission in zip(run_ids, permissions, strict=True):
        answers = ("refused", "granted") if reserve else ("exported", "not exported")
        answer = answers[permission]
        out.print_line(f"  {str(run_id)[:8]} hears: {answer}{', and pays' if permission else ''}")
        if permission:
            await _publish_export(link, run_id, claim_id)
    await _until_exported(runs, claim_id, sum(permissions))
    out.print_line(f"  {claim_id} went out {'once' if sum(permissions) == 1 else 'twice'}")


async def _export_again(runs: ExportRuns, link: Link, claim_id: str) -> None:
    """Take the export of a claim back, and export it once more, with a reservation."""
    checked = await runs.check_claims(ORG, [claim_id])
    first, second = checked.exported[0].runs[0].run_id, uuid4()
    await runs.reverse_export(ORG, first, "the ledger refused the batch", "bob", "carol", claim_ids=[claim_id])
    out.print_line(f"  bob takes the export by {str(first)[:8]} back, and carol has approved it")
    await runs.reserve_claims(ORG, second, [claim_id])
    await _publish_export(link, second, claim_id)
    await _until_exported(runs, claim_id, 1)
    out.print_line(f"  {str(second)[:8]} reserves {claim_id} and exports it: that is no double export")


async def _publish_export(link: Link, run_id: UUID, claim_id: str) -> None:
    finished = {
        "eventId": str(uuid4()),
        "schemaVersion": 1,
        "occurredAt": datetime.now(UTC).isoformat(),
        "runId": str(run_id),
        "orgId": ORG,
        "status": "completed",
        "claimIds": [claim_id],
    }
    await link.publish_event(RUN_FINISHED, ORG, json.dumps(finished).encode())


async def _until_exported(runs: ExportRuns, claim_id: str, times: int) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            checked = await runs.check_claims(ORG, [claim_id])
            if checked.exported and len(checked.exported[0].runs) == times:
                return
            await asyncio.sleep(POLL_S)


async def _until_answered(amqp_url: str) -> None:
    """Wait for the worker. Until it has declared its exchanges, RabbitMQ closes the channel of each request."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            try:
                async with open_link(amqp_url, "make demo", None) as link:
                    body = json.dumps({"orgId": ORG}).encode()
                    await link.ask("get-last-export", body, READY_TIMEOUT_S, confirmed=asyncio.Event())
                return
            except NoAnswer:
                await asyncio.sleep(POLL_S)


async def _until_stored(runs: ExportRuns, count: int) -> None:
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            page = await runs.get_export_history(ORG)
            if len(page.runs) == count and all(run.finished_at and run.triggered_by for run in page.runs):
                return
            await asyncio.sleep(POLL_S)


if __name__ == "__main__":
    main()
