"""Options of `export-runs dead-letters`: which dead letters they select, and the errors for wrong options."""

from datetime import timedelta

import pytest

from schema.fields import counted
from sql.connection import Connection
from tests.acceptance.dead_letters.conftest import CREATED_DEAD, die, listed, tool
from tests.wire import Wire, run_created
from worker.broker.declaration import declare
from worker.settings import WorkerSettings

FILTERS = {
    "nothing": ([], ["a", "b", "c", "d"]),
    "event type": (["--queue", "run-finished"], ["d"]),
    "queue": (["--queue", CREATED_DEAD], ["a", "b", "c"]),
    "message id": (["--message-id", "b"], ["b"]),
    "message ids": (["--message-id", "b", "--message-id", "d", "--message-id", "z"], ["b", "d"]),
    "error code": (["--error-code", "invalid_event"], ["a", "d"]),
    "older": (["--older-than", "90m"], ["a", "b"]),
    "newer": (["--newer-than", "90m"], ["c", "d"]),
    "between": (["--older-than", "90m", "--newer-than", "2d"], ["b"]),
    "limit": (["--limit", "2"], ["a", "b"]),
    "limit across queues": (["--limit", "2", "--error-code", "INVALID_EVENT"], ["a", "d"]),
    "together": (["--newer-than", "7200s", "--error-code", "INVALID_EVENT"], ["d"]),
    "none": (["--message-id", "a", "--error-code", "UNSTORABLE"], []),
}


@pytest.mark.parametrize(("arguments", "ids"), FILTERS.values(), ids=FILTERS.keys())
async def test_every_command_selects_the_same_dead_letters(
    settings: WorkerSettings, wire: Wire, connection: Connection, arguments: list[str], ids: list[str]
) -> None:
    await declare(wire.channel)
    await die(wire, run_created(), message_id="a", code="INVALID_EVENT", age=timedelta(days=3))
    await die(wire, run_created(), message_id="b", code="UNSTORABLE", age=timedelta(hours=2))
    await die(wire, run_created(), message_id="c", code="UNSTORABLE")
    await die(wire, b"{}", event_type="run-finished", message_id="d", code="INVALID_EVENT")
    assert [each["messageId"] for each in await listed(settings, *arguments)] == ids
    plan = await tool("replay", "--dry-run", *arguments, settings=settings)
    assert plan.out.startswith(f"would replay {counted(len(ids), 'dead letter')}\n")
    conditions = {"--message-id", "--error-code", "--older-than", "--newer-than"}
    select_all = [] if conditions & set(arguments) else ["--all"]
    discard = await tool("discard", *select_all, "--reason", "x", "--yes", *arguments, settings=settings)
    assert discard.out.startswith(f"discarded {counted(len(ids), 'dead letter')}\n")
    logged = await connection.fetch("SELECT payload->>'messageId' AS id FROM export_run_events")
    assert sorted(row["id"] for row in logged) == ids
    assert [each["messageId"] for each in await listed(settings)] == [each for each in "abcd" if each not in ids]


WRONG = {
    "queue": (["list", "--queue", "export-runs.run-created"], "--queue"),
    "age": (["list", "--older-than", "3 days"], "--older-than"),
    "no age": (["show", "--newer-than", "0s"], "--newer-than"),
    "huge age": (["list", "--newer-than", "999999999d"], "--newer-than"),
    "ages crossed": (["list", "--older-than", "2h", "--newer-than", "1h"], "--newer-than"),
    "code": (["list", "--error-code", "not a code"], "--error-code"),
    "empty id": (["list", "--message-id", ""], "--message-id"),
    "limit": (["list", "--limit", "0"], "--limit"),
    "show all": (["show", "--error-code", "INVALID_EVENT"], "--message-id"),
    "rate": (["replay", "--rate", "nan"], "--rate"),
    "no rate": (["replay", "--rate", "0"], "--rate"),
    "type": (["replay", "--queue", "unroutable", "--to-type", "run-deleted"], "--to-type"),
    "type of everything": (["replay", "--to-type", "run-created"], "--to-type"),
    "no reason": (["discard", "--all"], "--reason"),
    "blank reason": (["discard", "--all", "--reason", " "], "--reason"),
    "long reason": (["discard", "--all", "--reason", "x" * 2_001], "--reason"),
    "control characters": (["discard", "--all", "--reason", "\x1b[2J"], "--reason"),
    "no condition": (["discard", "--queue", "run-created", "--reason", "x"], "--all"),
    "only a limit": (["discard", "--limit", "5", "--reason", "x"], "--all"),
    "all and some": (["discard", "--all", "--message-id", "x", "--reason", "x"], "--all"),
}


@pytest.mark.parametrize(("arguments", "option"), WRONG.values(), ids=WRONG.keys())
async def test_wrong_options_are_named(settings: WorkerSettings, arguments: list[str], option: str) -> None:
    refused = await tool(*arguments, settings=settings)
    assert (refused.code, refused.out) == (2, "")
    assert option in refused.err


COMMANDS = [
    ["list"],
    ["show", "--limit", "1"],
    ["replay"],
    ["replay", "--dry-run"],
    ["discard", "--all", "--reason", "x", "--yes"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_a_broker_that_does_not_answer(settings: WorkerSettings, command: list[str]) -> None:
    nowhere = {"EXPORT_RUNS_AMQP_URL": "amqp://guest:secret@127.0.0.1:1/"}
    result = await tool(*command, settings=settings, **nowhere)
    assert (result.code, "secret" in result.err) == (3, False)


async def test_a_broker_without_our_queues(settings: WorkerSettings, wire: Wire, queues: None) -> None:
    for queue in (CREATED_DEAD, "export-runs.run-created"):
        await wire.channel.queue_delete(queue)
    for command in COMMANDS:
        unknown = await tool(*command, settings=settings)
        assert (unknown.code, "has a worker ever run" in unknown.err) == (3, True)
