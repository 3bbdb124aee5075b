"""Every command escapes text from outside, with hostile text in every field that can hold it."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from local.processes import kill_tree
from tests.commands import COMMAND, Finished, environment, export_runs
from tests.conftest import with_database
from tests.forked import forked_export_runs
from tests.wire import WAIT_S, Json, Wire, run_created, run_finished
from worker.broker.declaration import declare
from worker.logs import escape_unprintable
from worker.settings import WorkerSettings

NAME = (
    "n\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u200b\u200c\u200d\u2060\ufeff\u00ad[red]"
)
"""Characters that an id or a name may have."""

PROSE = f"{NAME}\r\n\t\u2028."
"""Characters that a reason may have."""

ANYTHING = f"{PROSE}\x1b]0;title\x07\x1b[2J\x9b31m\x85\x7f"
"""Characters that the properties, the headers and the body of a message may have."""


def assert_harmless(finished: Finished, *, shows: str | None = None) -> None:
    """The command printed nothing that a terminal obeys or hides. It printed `shows`, an escaped text."""
    printed = finished.out + finished.err
    assert "Traceback" not in printed, printed
    for line in printed.split("\n"):
        assert escape_unprintable(line) == line
    if shows is not None:
        assert shows in re.sub(r"\s", "", printed), printed


@pytest.fixture
async def run_ids(wire: Wire, worker: None) -> list[str]:
    """Two runs that exported the same claim, and a third that reserved another one. Every text in them is hostile."""
    override = {"reason": PROSE, "approvedBy": NAME}
    runs = [str(uuid4()) for _ in range(3)]
    for run_id in runs[:2]:
        created = run_created(
            runId=run_id,
            orgId=NAME,
            triggeredBy=NAME,
            format=NAME,
            targetSystem=NAME,
            scope=NAME,
            periodStart="2026-01-01",
            override=override,
        )
        finished = run_finished(
            runId=run_id,
            orgId=NAME,
            status="partial",
            claimIds=[NAME],
            skippedClaims=[{"claimId": f"s{NAME}", "reason": PROSE}],
            error={"code": NAME, "detail": ANYTHING},
            artifact={"key": NAME, "sha256": NAME, "sizeBytes": 1},
            externalAckId=NAME,
        )
        await wire.publish("run-created", created)
        await wire.publish("run-finished", finished)
        await wire.until_run(run_id, status="partial", triggeredBy=NAME)
    await wire.publish("run-created", run_created(runId=runs[2], orgId=NAME, triggeredBy=NAME, format=NAME))
    await wire.until_run(runs[2])
    await wire.result("reserve-claims", orgId=NAME, runId=runs[2], claimIds=[f"r{NAME}"])
    await wire.result("reserve-claims", orgId=NAME, runId=runs[2], claimIds=[NAME], mode="available", override=override)
    await wire.result("delete-export-run", runId=runs[1], deletedBy=NAME, reason=PROSE)
    return runs


async def test_commands_that_send_requests_escape_the_replies(
    settings: WorkerSettings, wire: Wire, run_ids: list[str]
) -> None:
    commands = [
        ["history", NAME, "--include-deleted"],
        *(["run", run_id] for run_id in run_ids),
        *(["claims", "list", run_id] for run_id in run_ids),
        ["claims", "check", NAME, NAME, f"r{NAME}", f"free{NAME}"],
        ["claims", "find", NAME],
        ["claims", "explain", NAME, NAME],
        ["claims", "explain", NAME, f"s{NAME}"],
        ["period", NAME, "2026-01-01", "2026-01-31"],
        ["last-export", NAME],
        ["double-exports", "list", NAME],
        ["double-exports", "resolve", NAME, NAME, "--note", PROSE, "--by", NAME],
        ["stale", "--older-than", "1s"],
        ["purge", run_ids[0]],
    ]
    await asyncio.sleep(1.1)  # for the run to be stale
    for command in commands:
        for options in [[], ["--json"]]:
            finished = await forked_export_runs(*command, *options, settings=settings)
            assert finished.code == (4 if command[1] == "check" else 0), finished
            # Where nobody named the claim, its id has no invisible characters.
            shown = "n[red]" if command[:2] == ["double-exports", "list"] and not options else "n\\u202a"
            assert_harmless(finished, shows=shown)


async def test_commands_for_dead_letters_escape_the_messages(settings: WorkerSettings, wire: Wire) -> None:
    await declare(wire.channel)
    headers = {
        "x-error-code": ANYTHING,
        "x-error-detail": ANYTHING,
        "x-failed-at": datetime.now(UTC).isoformat(),
        "x-replayed-errors": [ANYTHING],
        f"x-{ANYTHING}": {ANYTHING: ANYTHING},
    }
    properties = {"message_id": ANYTHING, "type": ANYTHING, "app_id": ANYTHING, "correlation_id": ANYTHING}
    bodies = [json.dumps({ANYTHING: ANYTHING}, ensure_ascii=False).encode(), ANYTHING.encode()]
    for body in bodies:
        for exchange in ("export-runs.dead-letter", "export-runs.unroutable"):
            await wire.publish("run-created", body, exchange=exchange, headers=headers, **properties)
    await wire.publish(ANYTHING, bodies[0], headers=headers, **properties)
    for options in [[], ["--json"]]:
        for command in (
            ["list"],
            ["show", "--limit", "1"],
            ["show", "--message-id", ANYTHING],
            ["replay", "--dry-run"],
            ["discard", "--all", "--reason", "x"],
        ):
            finished = await forked_export_runs("dead-letters", *command, *options, settings=settings)
            assert finished.code in (0, 1), finished
            assert_harmless(finished, shows="u202e")


async def test_publish_escapes_the_file_and_its_name(settings: WorkerSettings) -> None:
    lines = [
        ANYTHING.encode(),
        json.dumps({"type": ANYTHING}).encode(),
        json.dumps({"type": "run-created", ANYTHING: ANYTHING, **run_created(orgId=ANYTHING)}).encode(),
        b"\x1b]0;\xff",
    ]
    for options in [[], ["--json"]]:
        finished = await export_runs("publish", "-", "--dry-run", *options, settings=settings, stdin=b"\n".join(lines))
        assert finished.code == 1, finished
        assert_harmless(finished, shows="line4:")
    assert_harmless(await forked_export_runs("publish", f"no {ANYTHING}", settings=settings), shows="\\u202e")


@pytest.mark.parametrize(
    "arguments",
    [
        [ANYTHING],
        ["history", "acme", "--status", ANYTHING],
        ["history", "acme", "--cursor", "x", "--offset", "1", f"--{ANYTHING}"],
        ["history", "acme", "--limit", ANYTHING],
        ["history", ANYTHING],
        ["run", ANYTHING],
        ["run", "a", ANYTHING],
        ["run", os.fsdecode(b"\xff\xfe")],
        ["dead-letters", "list", "--queue", ANYTHING],
        ["dead-letters", "list", "--older-than", ANYTHING],
        ["dead-letters", "discard", "--all", "--reason", ANYTHING],
    ],
    ids=" ".join,
)
async def test_a_wrong_command_line_is_escaped(settings: WorkerSettings, arguments: list[str]) -> None:
    refused = await forked_export_runs(*arguments, settings=settings)
    assert refused.code == 2, refused
    assert_harmless(refused)


async def test_wrong_settings_are_escaped(settings: WorkerSettings) -> None:
    variables = {"EXPORT_RUNS_LOG_LEVEL": ANYTHING, "EXPORT_RUNS_SHUTDOWN_S": ANYTHING}
    refused = await forked_export_runs("worker", settings=settings, **variables)
    assert (refused.code, len(refused.err.splitlines())) == (2, 2)
    assert_harmless(refused)


async def test_an_error_of_the_database_is_escaped(settings: WorkerSettings) -> None:
    url = with_database(settings.database_url.get_secret_value(), quote("x\x1b[2J\u202e"))
    refused = await forked_export_runs("migrate", settings=settings, EXPORT_RUNS_DATABASE_URL=url)
    assert refused.code in (2, 3), refused
    assert_harmless(refused, shows="\\u202e")


@asynccontextmanager
async def hostile_worker(wire: Wire) -> AsyncIterator[None]:
    """Answer requests in the place of a worker, with an error whose texts are hostile."""
    await declare(wire.channel)

    async def answer(request: AbstractIncomingMessage) -> None:
        error: Json = {
            "code": "CONFLICT",
            "message": ANYTHING,
            "retryable": False,
            "details": [{"field": ANYTHING, "message": ANYTHING}],
        }
        body = json.dumps({"ok": False, "error": error}).encode()
        assert request.reply_to
        reply = aio_pika.Message(body, correlation_id=request.correlation_id)
        await wire.channel.default_exchange.publish(reply, request.reply_to, mandatory=False)

    queue = await wire.channel.get_queue("export-runs.rpc.get-export-history")
    tag = await queue.consume(answer, no_ack=True)
    yield
    await queue.cancel(tag)


async def test_an_error_reply_is_escaped(settings: WorkerSettings, wire: Wire) -> None:
    async with hostile_worker(wire):
        refused = await forked_export_runs("history", "acme", settings=settings)
    assert refused.code == 1, refused
    assert_harmless(refused, shows="\\u202e")


@contextmanager
def pseudo_terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a terminal: one for the command, one for the person."""
    person_end, command_end = os.openpty()
    try:
        yield command_end, person_end
    finally:
        os.close(person_end)
        os.close(command_end)


async def test_a_worker_escapes_the_log_on_a_terminal(settings: WorkerSettings, wire: Wire) -> None:
    await declare(wire.channel)
    with pseudo_terminal() as (command_end, person_end):
        process = await asyncio.create_subprocess_exec(
            COMMAND, "worker", env={**environment(settings), "TERM": "xterm"}, stderr=command_end
        )
        try:
            await wire.ready()
            # The id has no space and no line end, because structlog escapes texts that do.
            await wire.publish("run-created", b"{}", message_id="m\x1b[2J\x9b31m\u202e")
            logged = b""
            async with asyncio.timeout(WAIT_S):
                while b"event_dead_lettered" not in logged or not logged.endswith(b"\n"):
                    logged += await asyncio.to_thread(os.read, person_end, 65_536)
        finally:
            await asyncio.to_thread(kill_tree, process.pid)
            await process.wait()
    text = re.sub(r"\x1b\[[0-9;]*m", "", logged.decode()).replace("\r\n", "\n")  # the log's own colours
    assert_harmless(Finished(0, text, ""), shows="\\u202e")
