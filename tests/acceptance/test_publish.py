"""`export-runs publish` reads events from a file or a pipe, also a slow one, or one from another system."""

import asyncio
import gzip
import json

import pytest

from schema.limits import BODY_BYTES_MAX
from tests.commands import COMMAND, COMMAND_TIMEOUT_S, environment, export_runs
from tests.wire import Wire, run_created, run_finished
from worker.settings import WorkerSettings

HEARTBEAT_S = 1
SILENCE_S = 8
"""RabbitMQ closes a connection that missed two heartbeats, and aiormq one that was silent for 6 s."""


def lines_of(*events: tuple[str, dict[str, object]], end: bytes = b"\n") -> bytes:
    return b"".join(json.dumps({"type": kind, **event}).encode() + end for kind, event in events)


@pytest.mark.usefixtures("worker")
async def test_publish_names_the_wrong_lines(settings: WorkerSettings, wire: Wire) -> None:
    good = run_created()
    file = (
        lines_of(("run-created", run_created(orgId="")))
        + b"\n"
        + b"not JSON\n"
        + lines_of(("run-deleted", good), ("run-created", good))
    )
    published = await export_runs("publish", "-", settings=settings, stdin=file)
    assert (published.code, published.out) == (1, "1 published, 3 invalid\n")
    assert [line.split(":")[0:2] for line in published.err.splitlines()] == [
        ["line 1", " orgId"],
        ["line 3", " body"],
        ["line 4", " type"],
    ]
    await wire.until_run(good["runId"])
    checked = await export_runs("publish", "-", "--dry-run", settings=settings, stdin=file)
    assert (checked.code, checked.out) == (1, "1 valid, 3 invalid\n")
    checked = await export_runs("publish", "-", "--dry-run", "--json", settings=settings, stdin=file)
    assert json.loads(checked.out) == {"dryRun": True, "valid": 1, "invalid": 3}


@pytest.mark.usefixtures("worker")
async def test_a_slow_pipe_is_published_line_by_line(settings: WorkerSettings, wire: Wire) -> None:
    """While the pipe is silent, the command answers heartbeats, so that its connection is not closed."""
    first, second, third = (run_created() for _ in range(3))
    variables = environment(settings, EXPORT_RUNS_HEARTBEAT_S=str(HEARTBEAT_S))
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "publish",
        "-",
        env=variables,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(lines_of(("run-created", first)))
        await wire.until_run(first["runId"])
        process.stdin.write(lines_of(("run-created", second))[:-20])
        await asyncio.sleep(SILENCE_S)
        process.stdin.write(lines_of(("run-created", second))[-20:])
        await wire.until_run(second["runId"])
        process.stdin.write(lines_of(("run-created", third)).rstrip())
        process.stdin.close()
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, out, err) == (0, b"3 published, 0 invalid\n", b"")
    await wire.until_run(third["runId"])


@pytest.mark.usefixtures("worker")
async def test_a_lost_connection_ends_the_command_while_the_pipe_is_silent(
    settings: WorkerSettings, wire: Wire
) -> None:
    """The command prints how many events it had published."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "publish",
        "-",
        env=environment(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        event = run_created()
        process.stdin.write(lines_of(("run-created", event)))
        await wire.until_run(event["runId"])
        await wire.channel.exchange_delete("export-runs.events")
        process.stdin.write(lines_of(("run-created", event)))
        await asyncio.wait_for(process.wait(), COMMAND_TIMEOUT_S)  # standard input is still open
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, out) == (3, b"1 published, 0 invalid\n")
    assert b"Traceback" not in err


@pytest.mark.usefixtures("worker")
async def test_a_file_from_windows_is_published(settings: WorkerSettings, wire: Wire) -> None:
    created, finished = run_created(), run_finished()
    file = b"\xef\xbb\xbf" + lines_of(("run-created", created), ("run-finished", finished), end=b"\r\n")
    published = await export_runs("publish", "-", settings=settings, stdin=file)
    assert (published.code, published.out, published.err) == (0, "2 published, 0 invalid\n", "")
    await wire.until_run(created["runId"])
    await wire.until_run(finished["runId"])


UNREADABLE = {
    "gzip": (gzip.compress(lines_of(("run-created", run_created()))), "gunzip"),
    "UTF-16": ("\ufeff{}".encode("utf-16-le"), "UTF-16"),
}


@pytest.mark.parametrize(("file", "word"), UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_file_of_another_kind_is_recognised(settings: WorkerSettings, file: bytes, word: str) -> None:
    refused = await export_runs("publish", "-", "--dry-run", settings=settings, stdin=file)
    assert (refused.code, refused.out) == (1, "0 valid, 0 invalid\n")
    assert word in refused.err
    assert len(refused.err.splitlines()) == 1


async def test_a_line_may_be_as_long_as_a_body(settings: WorkerSettings) -> None:
    """A longer line is named and not kept in memory, and the next one is read."""
    event = json.dumps({"type": "run-created", **run_created()}).encode()
    fits = event[:-1] + b" " * (BODY_BYTES_MAX - len(event)) + b"}"
    file = b"\n".join([fits, fits + b" ", b"x" * 4 * BODY_BYTES_MAX, event])
    checked = await export_runs("publish", "-", "--dry-run", settings=settings, stdin=file)
    assert (checked.code, checked.out) == (1, "2 valid, 2 invalid\n")
    assert checked.err == "".join(f"line {n}: body: is longer than 4,194,304 bytes\n" for n in (2, 3))
