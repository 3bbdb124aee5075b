"""`dead-letters list` and `show` print what is in the queues, and change nothing."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from aio_pika.abc import AbstractIncomingMessage

from cli.dead_letters.display import summaries
from cli.dead_letters.letter import Selection
from cli.dead_letters.queues import BrowseLimits, open_browser
from tests.acceptance.dead_letters.conftest import (
    CREATED_DEAD,
    FINISHED_DEAD,
    UNROUTABLE,
    die,
    listed,
    tool,
)
from tests.wire import Json, Wire, run_created
from worker.settings import WorkerSettings


@pytest.mark.usefixtures("worker")
async def test_list_prints_each_dead_letter_with_its_error(settings: WorkerSettings, wire: Wire) -> None:
    await wire.publish("run-created", run_created(orgId=""), message_id="m-1")
    await wire.publish("run-created", run_created(), message_id="m-2", type="run-finished")
    await wire.publish("run-deleted", {"a": 1}, message_id="m-3")
    await wire.until_count(CREATED_DEAD, 2)

    shown = await tool("list", settings=settings)
    assert shown.code == 0
    for text in ("m-1", "INVALID_EVENT", "orgId", "m-2", "TYPE_MISMATCH", "m-3", "UNROUTABLE", "run-deleted"):
        assert text in shown.out
    assert re.search(rf"{CREATED_DEAD}: 2 dead letters, the oldest: \d+s ago\n", shown.out)
    assert f"{FINISHED_DEAD}: 0 dead letters\n" in shown.out
    assert f"{UNROUTABLE}: 1 dead letter, the oldest: age unknown\n" in shown.out

    lines = await listed(settings, "--queue", "run-created")
    assert [(each["messageId"], each["errorCode"]) for each in lines] == [
        ("m-1", "INVALID_EVENT"),
        ("m-2", "TYPE_MISMATCH"),
    ]
    failed_at = datetime.fromisoformat(lines[0]["failedAt"])
    assert timedelta(0) < datetime.now(UTC) - failed_at < timedelta(minutes=1)
    assert lines[0]["replays"] == 0
    assert lines[1]["eventType"] == "run-finished"


async def test_list_and_show_change_nothing(settings: WorkerSettings, wire: Wire, queues: None) -> None:
    """They do not even change the order, also if they print only a part of a queue."""
    ids = [await die(wire, run_created()) for _ in range(30)]
    for _ in range(2):
        few = await tool("list", "--limit", "3", settings=settings)
        assert f"{CREATED_DEAD}: 30 dead letters, the oldest: 0s ago; 3 listed\n" in re.sub(r"\d+s", "0s", few.out)
        assert await wire.count_in(CREATED_DEAD) == 30
        one = await tool("show", "--limit", "1", "--json", settings=settings)
        assert json.loads(one.out)["messageId"] == ids[0]
        assert [each["messageId"] for each in await listed(settings)] == ids
        assert await wire.count_in(CREATED_DEAD) == 30


async def counts_of(settings: WorkerSettings, queue: str) -> Json:
    """The counts that `list --json` prints for a queue."""
    finished = await tool("list", "--json", "--queue", queue, settings=settings)
    counts: Json
    [counts] = json.loads(finished.out)["queues"]
    return counts


async def test_dead_letters_that_another_command_holds_are_counted(
    settings: WorkerSettings, wire: Wire, queues: None
) -> None:
    """Otherwise a queue would look empty while somebody replays it slowly."""
    for number in range(14):
        await die(wire, b"x", message_id=f"m-{number}")
    async with open_browser(settings) as browser:
        async for letter, _ in browser.letters([await browser.count(CREATED_DEAD)], Selection()):
            if letter.message_id == "m-9":
                break
        seen = await tool("list", settings=settings)
        assert f"{CREATED_DEAD}: 14 dead letters, 10 of them held by another command or consumer, the" in seen.out
        counts = await counts_of(settings, CREATED_DEAD)
        assert (counts["ready"], counts["heldByOthers"], counts["listed"]) == (4, 10, 4)
        replayed = await tool("replay", "--dry-run", settings=settings)
        assert replayed.out.startswith("would replay 4 dead letters\n")
        assert "holds 10 dead letters" in replayed.err
        hidden = await tool("show", "--message-id", "m-0", settings=settings)
        assert (hidden.code, hidden.err.splitlines()[0]) == (1, "there is no such dead letter")
        assert "holds 10 dead letters" in hidden.err
    assert (await counts_of(settings, CREATED_DEAD))["heldByOthers"] == 0


async def test_dead_letters_that_a_consumer_holds_are_counted(
    settings: WorkerSettings, wire: Wire, queues: None
) -> None:
    for _ in range(3):
        await die(wire, b"x")
    queue = await wire.channel.get_queue(CREATED_DEAD)

    async def hold(message: AbstractIncomingMessage) -> None:
        """Neither acknowledge the message nor give it back."""

    tag = await queue.consume(hold)
    await wire.until_count(CREATED_DEAD, 0)
    counts = await counts_of(settings, CREATED_DEAD)
    assert (counts["ready"], counts["heldByOthers"]) == (0, 1)
    await queue.cancel(tag)


async def test_the_age_of_unroutable_messages(settings: WorkerSettings, wire: Wire, queues: None) -> None:
    """RabbitMQ may write the time of arrival into a header. Otherwise the publisher's timestamp is used."""
    await wire.publish("run-deleted", b"x")
    summary = await tool("list", settings=settings)
    assert f"{UNROUTABLE}: 1 dead letter, the oldest: age unknown\n" in summary.out
    sent_at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
    await wire.publish("run-deleted", b"x", message_id="m-1", timestamp=sent_at)
    received_at = sent_at - timedelta(hours=1, milliseconds=7)
    headers = {"timestamp_in_ms": round(received_at.timestamp() * 1_000)}
    await wire.publish("run-deleted", b"x", message_id="m-2", headers=headers, timestamp=sent_at)
    await wire.publish("run-deleted", b"x", message_id="m-3", headers={"timestamp_in_ms": 2**62})
    summary = await tool("list", settings=settings)
    assert f"{UNROUTABLE}: 4 dead letters, the oldest: 3h 0m ago (2 of unknown age)\n" in summary.out
    letters = {each["messageId"]: each["failedAt"] for each in await listed(settings)}
    assert datetime.fromisoformat(letters["m-1"]) == sent_at
    assert datetime.fromisoformat(letters["m-2"]) == received_at
    assert letters["m-3"] is None
    old = await listed(settings, "--older-than", "150m")
    assert [each["messageId"] for each in old] == ["m-2"]


async def test_of_a_long_queue_only_the_first_messages_are_read(
    settings: WorkerSettings, wire: Wire, queues: None
) -> None:
    for _ in range(30):
        await die(wire, b"x")
    async with open_browser(settings, BrowseLimits(whole_queue_messages_max=29)) as browser:
        counts = [await browser.count(CREATED_DEAD)]
        async for _ in browser.letters(counts, Selection(limit=3)):
            pass
    assert (counts[0].ready, counts[0].read, counts[0].selected) == (30, 3, 3)
    [line] = summaries(counts)
    assert "the oldest that was read" in line
    assert "3 listed, 27 not read" in line
    assert await wire.count_in(CREATED_DEAD) == 30


async def test_show_prints_everything_and_no_control_characters(
    settings: WorkerSettings, wire: Wire, queues: None
) -> None:
    body = b'{"orgId": "a\x1b]0;x\xff", '
    await die(wire, body, message_id="m-1", headers={"x-mine": "\x1b[2J", "n": [1, {"a": None}]})
    created = run_created(note="[bold]1.10")
    await die(wire, created, message_id="m-2", headers={"x-replayed-errors": ["one", "two"]})
    shown = await tool("show", "--message-id", "m-1", settings=settings)
    assert shown.code == 0
    assert "\x1b" not in shown.out
    for text in ("UNSTORABLE it was", "header x-mine", "\\x1b[2J", '{"orgId": "a\\x1b]0;x\\xff", '):
        assert text in shown.out
    assert "m-2" not in shown.out

    shown = await tool("show", "--message-id", "m-2", settings=settings)
    assert f'\n  "runId": "{created["runId"]}",\n' in shown.out
    assert '"note": "[bold]1.10"' in shown.out

    shown = await tool("show", "--message-id", "m-1", "--message-id", "m-2", "--json", settings=settings)
    first, second = map(json.loads, shown.out.splitlines())
    assert (first["bodyEncoding"], base64.b64decode(first["body"])) == ("base64", body)
    assert first["headers"]["n"] == [1, {"a": None}]
    assert (second["bodyEncoding"], json.loads(second["body"])) == ("utf-8", created)
    assert second["properties"]["message_type"] == "run-created"
    assert await wire.count_in(CREATED_DEAD) == 2

    one = await tool("show", "--limit", "1", "--json", settings=settings)
    assert json.loads(one.out)["messageId"] == "m-1"
    none = await tool("show", "--message-id", "m-9", settings=settings)
    assert (none.code, none.err) == (1, "there is no such dead letter\n")
