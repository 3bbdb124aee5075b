"""The operator's tools: what could not be processed is looked at, replayed, discarded, and never lost."""

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from handlers.connection import Connection
from tests.commands import COMMAND, Finished, environment
from tests.forked import forked_export_runs
from tests.wire import POLL_S, WAIT_S, Json, Wire, run_created, run_finished
from worker.amqp import Delivery
from worker.dead_letter_command.box import open_box
from worker.dead_letter_command.facts import DeadLetter, Selection
from worker.dead_letter_command.tools import Outcome, work_through
from worker.dead_letter_command.views import summaries
from worker.settings import WorkerSettings
from worker.topology import declare

CREATED_DEAD = "export-runs.run-created.dead"
FINISHED_DEAD = "export-runs.run-finished.dead"
UNROUTABLE = "export-runs.unroutable"


@pytest.fixture
async def queues(wire: Wire) -> AsyncIterator[None]:
    """The queues, as a worker leaves them; no worker runs. They are there afterwards, whatever the test does."""
    await declare(wire.channel)
    yield
    await declare(wire.channel)


@pytest.fixture
async def published(wire: Wire, queues: None) -> AsyncIterator[AbstractQueue]:
    """A queue that gets a copy of every event that is published."""
    queue = await wire.channel.declare_queue(exclusive=True)
    await queue.bind("export-runs.events", "#")
    yield queue
    await queue.delete(if_unused=False, if_empty=False)


async def tool(*arguments: str, settings: WorkerSettings, **variables: str) -> Finished:
    """`export-runs dead-letters ...`; it must never end in a traceback."""
    finished = await forked_export_runs("dead-letters", *arguments, settings=settings, **variables)
    assert "Traceback" not in finished.err, finished.err
    return finished


async def listed(settings: WorkerSettings, *arguments: str) -> list[Json]:
    """What `list --json` says."""
    finished = await tool("list", "--json", *arguments, settings=settings)
    assert finished.code == 0, finished.err
    return [json.loads(line) for line in finished.out.splitlines()]


async def die(
    wire: Wire,
    body: Json | bytes,
    *,
    event_type: str = "run-created",
    code: str = "UNSTORABLE",
    age: timedelta = timedelta(0),
    headers: Json | None = None,
    **properties: Any,
) -> str:
    """Put a dead letter where a worker would have put it; returns its message id."""
    message_id = properties.pop("message_id", str(uuid4()))
    errors = {
        "x-error-code": code,
        "x-error-detail": f"{code} it was",
        "x-failed-at": (datetime.now(UTC) - age).isoformat(),
        "x-original-queue": f"export-runs.{event_type}",
    }
    await wire.publish(
        event_type,
        body,
        exchange="export-runs.dead-letter",
        headers={**errors, **(headers or {})},
        message_id=message_id,
        **properties,
    )
    return str(message_id)


async def until_count(wire: Wire, queue: str, count: int) -> None:
    """Wait until a queue holds so many messages."""
    async with asyncio.timeout(WAIT_S):
        while await wire.count_in(queue) != count:
            await asyncio.sleep(POLL_S)


async def until_published(queue: AbstractQueue, count: int) -> list[AbstractIncomingMessage]:
    """Wait for so many events, and take them."""
    found: list[AbstractIncomingMessage] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            message = await queue.get(fail=False, no_ack=True)
            if message is None:
                await asyncio.sleep(POLL_S)
            else:
                found.append(message)
    return found


def errors_of(message: AbstractIncomingMessage) -> list[str]:
    """What a replayed message failed with before."""
    errors = message.headers["x-replayed-errors"]
    assert isinstance(errors, list)
    return [str(error) for error in errors]


@pytest.mark.usefixtures("worker")
async def test_list_says_what_failed_and_why(settings: WorkerSettings, wire: Wire) -> None:
    await wire.publish("run-created", run_created(orgId=""), message_id="m-1")
    await wire.publish("run-created", run_created(), message_id="m-2", type="run-finished")
    await wire.publish("run-deleted", {"a": 1}, message_id="m-3")
    await until_count(wire, CREATED_DEAD, 2)

    shown = await tool("list", settings=settings)
    assert shown.code == 0
    for text in ("m-1", "INVALID_EVENT", "orgId", "m-2", "TYPE_MISMATCH", "m-3", "UNROUTABLE", "run-deleted"):
        assert text in shown.out
    assert f"{CREATED_DEAD}: 2 dead letters, the oldest from" in shown.out
    assert f"{FINISHED_DEAD}: 0 dead letters\n" in shown.out
    assert f"{UNROUTABLE}: 1 dead letters\n" in shown.out

    lines = await listed(settings, "--queue", "run-created")
    assert [(each["messageId"], each["errorCode"]) for each in lines] == [
        ("m-1", "INVALID_EVENT"),
        ("m-2", "TYPE_MISMATCH"),
    ]
    failed_at = datetime.fromisoformat(lines[0]["failedAt"])
    assert timedelta(0) < datetime.now(UTC) - failed_at < timedelta(minutes=1)
    assert lines[0]["replays"] == 0
    assert lines[1]["eventType"] == "run-finished"


async def test_looking_changes_nothing(settings: WorkerSettings, wire: Wire, queues: None) -> None:
    """Not even the order, however little of a queue was asked for."""
    ids = [await die(wire, run_created()) for _ in range(30)]
    for _ in range(2):
        few = await tool("list", "--limit", "3", settings=settings)
        assert f"{CREATED_DEAD}: 30 dead letters, the oldest from 0s ago; 3 listed\n" in re.sub(r"\d+s", "0s", few.out)
        assert await wire.count_in(CREATED_DEAD) == 30
        one = await tool("show", "--limit", "1", "--json", settings=settings)
        assert json.loads(one.out)["messageId"] == ids[0]
        assert [each["messageId"] for each in await listed(settings)] == ids
        assert await wire.count_in(CREATED_DEAD) == 30


async def test_of_a_long_queue_only_the_first_are_looked_at(
    settings: WorkerSettings, wire: Wire, queues: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.dead_letter_command.box.LOOK_ON_MAX", 29)
    for _ in range(30):
        await die(wire, b"x")
    async with open_box(settings) as box:
        tallies = await box.tallies([CREATED_DEAD])
        async for _ in box.letters(tallies, Selection(limit=3)):
            pass
    assert (tallies[0].waiting, tallies[0].looked_at, tallies[0].selected) == (30, 3, 3)
    [line] = summaries(tallies)
    assert "the oldest looked at" in line
    assert "3 listed, 27 not looked at" in line
    assert await wire.count_in(CREATED_DEAD) == 30


async def test_show_is_whole_and_harmless(settings: WorkerSettings, wire: Wire, queues: None) -> None:
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

    both = await tool("show", "--message-id", "m-1", "--message-id", "m-2", "--json", settings=settings)
    first, second = map(json.loads, both.out.splitlines())
    assert (first["bodyEncoding"], base64.b64decode(first["body"])) == ("base64", body)
    assert first["headers"]["n"] == [1, {"a": None}]
    assert (second["bodyEncoding"], json.loads(second["body"])) == ("utf-8", created)
    assert second["properties"]["message_type"] == "run-created"
    assert await wire.count_in(CREATED_DEAD) == 2

    one = await tool("show", "--limit", "1", "--json", settings=settings)
    assert json.loads(one.out)["messageId"] == "m-1"
    none = await tool("show", "--message-id", "m-9", settings=settings)
    assert (none.code, none.err) == (1, "there is no such dead letter\n")


async def test_a_replay_publishes_the_event_as_it_was(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue
) -> None:
    own = {"x-trace": "t-1", "x-delivery-count": 3, "x-acquired-count": 3, "x-first-death-queue": "q"}
    message_id = await die(
        wire,
        b"any\x00thing",
        headers={**own, "x-death": [], "x-last-death-reason": ""},
        content_type="text/x",
        content_encoding="none",
        correlation_id="c-1",
        app_id="exporter",
    )
    replayed = await tool("replay", settings=settings)
    assert (replayed.code, replayed.out) == (
        0,
        f"replayed 1 dead letters\n  {CREATED_DEAD}: 1 UNSTORABLE\n",
    )
    [message] = await until_published(published, 1)
    assert (message.routing_key, message.body) == ("run-created", b"any\x00thing")
    assert (message.message_id, message.type, message.delivery_mode) == (message_id, "run-created", 2)
    assert (message.content_type, message.content_encoding) == ("text/x", "none")
    assert (message.correlation_id, message.app_id) == ("c-1", "exporter")
    assert set(message.headers) == {"x-trace", "x-replay-count", "x-replayed-errors", "x-replay-id"}
    assert message.headers["x-replay-count"] == 1
    [error] = errors_of(message)
    assert error.endswith("UNSTORABLE: UNSTORABLE it was")
    assert await wire.count_in(CREATED_DEAD) == 0
    again = await tool("replay", settings=settings)
    assert (again.code, again.out) == (0, "replayed 0 dead letters\n")
    assert await published.get(fail=False) is None


@pytest.mark.usefixtures("worker")
async def test_what_is_mended_is_stored(settings: WorkerSettings, wire: Wire) -> None:
    created, finished = run_created(), run_finished()
    await die(wire, created)
    await die(wire, finished, event_type="run-finished")
    replayed = await tool("replay", "--queue", "run-finished", settings=settings)
    assert replayed.out.startswith("replayed 1 ")
    await wire.until_run(finished["runId"], status="completed")
    assert await wire.run(created["runId"]) is None
    replayed = await tool("replay", settings=settings)
    assert replayed.out.startswith("replayed 1 ")
    await wire.until_run(created["runId"], triggeredBy="alice")
    assert await listed(settings) == []


@pytest.mark.usefixtures("worker")
async def test_what_fails_again_comes_back_with_its_history(settings: WorkerSettings, wire: Wire) -> None:
    for number in range(5):
        await wire.publish("run-created", run_created(orgId=""), message_id=f"m-{number}")
    await until_count(wire, CREATED_DEAD, 5)
    for replays in range(1, 13):
        replayed = await tool("replay", "--rate", "200", settings=settings)
        assert replayed.out.startswith("replayed 5 dead letters\n")
        await until_count(wire, CREATED_DEAD, 5)
        if replays in (1, 12):
            lines = await listed(settings)
            assert sorted(each["messageId"] for each in lines) == [f"m-{number}" for number in range(5)]
            for each in lines:
                assert (each["replays"], each["errorCode"]) == (replays, "INVALID_EVENT")
                assert len(each["replayedErrors"]) == min(replays, 10)
                assert all("INVALID_EVENT: orgId" in error for error in each["replayedErrors"])
                assert each["replayedErrors"] == sorted(each["replayedErrors"])


@pytest.mark.usefixtures("worker")
async def test_nothing_is_replayed_twice_by_one_command(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue
) -> None:
    """Somebody else takes dead letters away meanwhile, so that those that come back move up."""
    for _ in range(12):
        await die(wire, b"never valid")
    replaying = asyncio.create_task(tool("replay", "--rate", "5", settings=settings))
    await until_published(published, 2)
    for _ in range(4):
        assert "x-replay-count" not in (await wire.take_from(CREATED_DEAD)).headers
    finished = await replaying
    assert (finished.code, finished.out.splitlines()[0]) == (0, "replayed 8 dead letters")
    await until_count(wire, CREATED_DEAD, 8)
    assert Counter(each["replays"] for each in await listed(settings)) == {1: 8}


@pytest.mark.usefixtures("worker")
async def test_a_replay_killed_half_way_loses_and_doubles_nothing(
    settings: WorkerSettings, wire: Wire, connection: Connection, published: AbstractQueue
) -> None:
    runs = [run_created(orgId="acme") for _ in range(200)]
    await asyncio.gather(*(die(wire, run) for run in runs))
    process = await asyncio.create_subprocess_exec(
        COMMAND, "dead-letters", "replay", "--rate", "100", env=environment(settings)
    )
    await until_published(published, 40)
    process.kill()
    await process.wait()
    async with asyncio.timeout(WAIT_S):
        while not 0 < await wire.count_in(CREATED_DEAD) < 200:
            await asyncio.sleep(POLL_S)
    replayed = await tool("replay", settings=settings)
    assert replayed.code == 0
    assert not replayed.out.startswith("replayed 200 ")
    async with asyncio.timeout(WAIT_S):
        while (await wire.result("get-export-history", orgId="acme"))["total"] != 200:
            await asyncio.sleep(POLL_S)
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 200
    assert await wire.count_in(CREATED_DEAD) == 0


async def test_an_interrupted_replay_says_how_far_it_came(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue
) -> None:
    for _ in range(50):
        await die(wire, run_created())
    replaying = asyncio.create_task(tool("replay", "--rate", "10", settings=settings))
    await until_published(published, 2)
    await wire.channel.queue_delete(CREATED_DEAD)
    stopped = await replaying
    assert (stopped.code, "no queue" in stopped.err) == (3, True)
    assert 2 <= int(stopped.out.split()[1]) < 50


async def test_a_dry_run_changes_nothing(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue, connection: Connection
) -> None:
    await die(wire, run_created())
    await die(wire, run_created(), code="INVALID_EVENT")
    would = await tool("replay", "--dry-run", settings=settings)
    assert (would.code, would.out.splitlines()) == (
        0,
        [
            "would replay 2 dead letters",
            f"  {CREATED_DEAD}: 1 INVALID_EVENT",
            f"  {CREATED_DEAD}: 1 UNSTORABLE",
        ],
    )
    would = await tool("discard", "--all", "--reason", "why not", settings=settings)
    assert (would.code, would.out.splitlines()[0]) == (0, "would discard 2 dead letters")
    assert would.out.splitlines()[-1] == "nothing was done; --yes does it"
    assert await wire.count_in(CREATED_DEAD) == 2
    assert await published.get(fail=False) is None
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 0


async def test_unroutable_events_find_their_way(settings: WorkerSettings, wire: Wire, queues: None) -> None:
    queue = await wire.channel.get_queue("export-runs.run-created")
    await queue.unbind("export-runs.events", "run-created")
    await wire.publish("run-created", run_created(), message_id="m-known")
    await queue.bind("export-runs.events", "run-created")
    await wire.publish("run.created", run_created(), message_id="m-unknown")

    replayed = await tool("replay", settings=settings)
    assert (replayed.code, replayed.out.splitlines()[0]) == (1, "replayed 1 dead letters")
    assert replayed.err == "left 1: no queue takes the routing key 'run.created'\n"
    assert (await wire.take_from(queue.name)).message_id == "m-known"
    assert [each["messageId"] for each in await listed(settings)] == ["m-unknown"]

    mend = ["replay", "--queue", "export-runs.unroutable", "--to-type", "run-created"]
    replayed = await tool(*mend, settings=settings)
    assert (replayed.code, replayed.out.splitlines()[0]) == (0, "replayed 1 dead letters")
    mended = await wire.take_from(queue.name)
    assert (mended.message_id, mended.type) == ("m-unknown", "run-created")
    assert await wire.count_in(UNROUTABLE) == 0


async def test_what_the_broker_gave_up_can_be_replayed(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue
) -> None:
    """Delivered too often: the broker says so, and a forged reason of the exporter's counts for nothing."""
    forged = {"x-error-code": "FORGED", "x-failed-at": "2001-01-01T00:00:00Z", "x-trace": "t-1"}
    await wire.publish("run-created", run_created(), message_id="m-1", headers=forged)
    await until_published(published, 1)
    queue = await wire.channel.get_queue("export-runs.run-created")
    while (message := await queue.get(fail=False)) is not None or await wire.count_in(queue.name):
        if message is not None:
            await message.reject(requeue=True)
    await until_count(wire, CREATED_DEAD, 1)
    [dead] = await listed(settings, "--error-code", "delivery_limit", "--newer-than", "1h")
    assert (dead["messageId"], dead["errorCode"]) == ("m-1", "DELIVERY_LIMIT")
    assert "export-runs.run-created" in dead["errorDetail"]

    replayed = await tool("replay", settings=settings)
    assert "1 DELIVERY_LIMIT" in replayed.out
    [message] = await until_published(published, 1)
    assert set(message.headers) == {"x-trace", "x-replay-count", "x-replayed-errors", "x-replay-id"}
    assert "DELIVERY_LIMIT" in errors_of(message)[0]


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
async def test_every_command_means_the_same_dead_letters(
    settings: WorkerSettings, wire: Wire, connection: Connection, arguments: list[str], ids: list[str]
) -> None:
    await declare(wire.channel)
    await die(wire, run_created(), message_id="a", code="INVALID_EVENT", age=timedelta(days=3))
    await die(wire, run_created(), message_id="b", code="UNSTORABLE", age=timedelta(hours=2))
    await die(wire, run_created(), message_id="c", code="UNSTORABLE")
    await die(wire, b"{}", event_type="run-finished", message_id="d", code="INVALID_EVENT")
    assert [each["messageId"] for each in await listed(settings, *arguments)] == ids
    would = await tool("replay", "--dry-run", *arguments, settings=settings)
    assert would.out.startswith(f"would replay {len(ids)} dead letters\n")
    conditions = {"--message-id", "--error-code", "--older-than", "--newer-than"}
    everything = [] if conditions & set(arguments) else ["--all"]
    done = await tool("discard", *everything, "--reason", "x", "--yes", *arguments, settings=settings)
    assert done.out.startswith(f"discarded {len(ids)} dead letters\n")
    logged = await connection.fetch("SELECT payload->>'messageId' AS id FROM export_run_events")
    assert sorted(row["id"] for row in logged) == ids
    assert [each["messageId"] for each in await listed(settings)] == [each for each in "abcd" if each not in ids]


async def test_a_discard_is_logged_once_and_whole(
    settings: WorkerSettings, wire: Wire, queues: None, connection: Connection
) -> None:
    created = run_created(orgId="acme", note="nul \u0000 and [brackets]")
    bodies = {
        "valid": json.dumps(created).encode(),
        "no run": b'{"runId": 7, "orgId": "acme"}',
        "raw nul": b"a\x00b",
        "not UTF-8": b"\xff\xfe",
        "empty": b"",
    }
    for _ in range(2):
        for name, body in bodies.items():
            await die(wire, body, message_id=name, code="INVALID_EVENT")
        done = await tool(
            "discard",
            "--error-code",
            "INVALID_EVENT",
            "--reason",
            "sent\nby mistake",
            "--yes",
            settings=settings,
        )
        assert (done.code, done.out) == (
            0,
            f"discarded {len(bodies)} dead letters\n  {CREATED_DEAD}: {len(bodies)} INVALID_EVENT\n",
        )
        assert await wire.count_in(CREATED_DEAD) == 0
    rows = await connection.fetch("SELECT * FROM export_run_events")
    entries = {json.loads(row["payload"])["messageId"]: (row, json.loads(row["payload"])) for row in rows}
    assert len(rows) == len(bodies)
    for name, body in bodies.items():
        row, payload = entries[name]
        assert (row["event_type"], row["origin"]) == ("dead-letter-discarded", "command")
        decode = base64.b64decode if payload["bodyEncoding"] == "base64" else str.encode
        assert decode(payload.pop("body")) == body
        assert datetime.fromisoformat(payload.pop("failedAt")) < datetime.now(UTC)
        assert payload.pop("discardedBy")
        assert payload == {
            "queue": CREATED_DEAD,
            "messageId": name,
            "errorCode": "INVALID_EVENT",
            "errorDetail": "INVALID_EVENT it was",
            "reason": "sent\nby mistake",
            "bodyEncoding": "base64" if name == "not UTF-8" else "utf-8",
        }
        run_id = created["runId"] if name == "valid" else None
        assert (row["run_id"] and str(row["run_id"])) == run_id
        assert row["org_id"] == ("acme" if name in ("valid", "no run") else None)


async def test_what_cannot_be_logged_is_not_discarded(
    settings: WorkerSettings, wire: Wire, queues: None, connection: Connection
) -> None:
    await die(wire, b"x")
    discard = ["discard", "--all", "--reason", "x", "--yes"]
    nowhere = {"EXPORT_RUNS_DATABASE_URL": "postgresql://postgres:secret@127.0.0.1:1/x"}
    failed = await tool(*discard, settings=settings, **nowhere)
    assert (failed.code, "database" in failed.err, "secret" in failed.err) == (3, True, False)
    assert await wire.count_in(CREATED_DEAD) == 1
    await connection.execute("ALTER TABLE export_run_events RENAME TO elsewhere")
    failed = await tool(*discard, settings=settings)
    assert (failed.code, failed.out) == (3, "discarded 0 dead letters\n")
    assert await wire.count_in(CREATED_DEAD) == 1


class Counted:
    """A tool that does nothing."""

    def __init__(self) -> None:
        self.treated: list[str | None] = []

    def obstacle(self, letter: DeadLetter, delivery: Delivery) -> str | None:
        return "stays" if letter.message_id == "stays" else None

    async def treat(self, letter: DeadLetter, delivery: Delivery) -> None:
        self.treated.append(letter.message_id)


async def test_a_long_replay_gives_back_what_it_only_looked_at(
    settings: WorkerSettings, wire: Wire, queues: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ would close its channel else; what was given back is looked at again, and treated once."""
    monkeypatch.setattr("worker.dead_letter_command.box.HOLD_S", 0)
    for number in range(4):
        await die(wire, b"x", message_id=f"no-{number}", code="INVALID_EVENT")
        await die(wire, b"x", message_id=f"yes-{number}")
    await die(wire, b"x", message_id="stays")
    counted, outcome = Counted(), Outcome()
    async with open_box(settings) as box:
        tallies = await box.tallies([CREATED_DEAD])
        selection = Selection(error_code="UNSTORABLE")
        await work_through(box, tallies, selection, counted, outcome, lambda: None, dry_run=False)
    assert counted.treated == [f"yes-{number}" for number in range(4)]
    assert (tallies[0].selected, tallies[0].settled) == (5, 4)
    left = [each["messageId"] for each in await listed(settings)]
    assert sorted(left) == [*(f"no-{number}" for number in range(4)), "stays"]


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
async def test_a_broker_that_is_away(settings: WorkerSettings, command: list[str]) -> None:
    nowhere = {"EXPORT_RUNS_AMQP_URL": "amqp://guest:secret@127.0.0.1:1/"}
    away = await tool(*command, settings=settings, **nowhere)
    assert (away.code, "secret" in away.err) == (3, False)


async def test_a_broker_that_knows_nothing_of_us(settings: WorkerSettings, wire: Wire, queues: None) -> None:
    for queue in (CREATED_DEAD, "export-runs.run-created"):
        await wire.channel.queue_delete(queue)
    for command in COMMANDS:
        unknown = await tool(*command, settings=settings)
        assert (unknown.code, "has a worker ever run" in unknown.err) == (3, True)


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["replay"], ["discard"]], ids=" ".join)
async def test_help_teaches(settings: WorkerSettings, command: list[str]) -> None:
    helped = await tool(*command, "--help", settings=settings)
    assert helped.code == 0
    assert len(helped.out.splitlines()) > 5
