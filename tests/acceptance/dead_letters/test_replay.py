"""`dead-letters replay` publishes events again as they were, and loses none."""

import asyncio
from collections import Counter

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue

from cli.dead_letters.actions import ActionReport, apply_action
from cli.dead_letters.letter import DeadLetter, Selection
from cli.dead_letters.queues import BrowseLimits, open_browser
from sql.connection import Connection
from tests.acceptance.dead_letters.conftest import (
    CREATED_DEAD,
    UNROUTABLE,
    die,
    errors_of,
    listed,
    tool,
    until_published,
)
from tests.commands import COMMAND, environment
from tests.wire import POLL_S, WAIT_S, Wire, run_created, run_finished
from worker.broker.deliveries import Delivery
from worker.settings import WorkerSettings


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
        f"replayed 1 dead letter\n  {CREATED_DEAD}: 1 UNSTORABLE\n",
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
    second = await tool("replay", settings=settings)
    assert (second.code, second.out) == (0, "replayed 0 dead letters\n")
    assert await published.get(fail=False) is None


@pytest.mark.usefixtures("worker")
async def test_a_replayed_event_that_is_valid_now_is_stored(settings: WorkerSettings, wire: Wire) -> None:
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
async def test_a_replayed_event_that_fails_again_keeps_its_earlier_errors(settings: WorkerSettings, wire: Wire) -> None:
    for number in range(5):
        await wire.publish("run-created", run_created(orgId=""), message_id=f"m-{number}")
    await wire.until_count(CREATED_DEAD, 5)
    for replays in range(1, 13):
        replayed = await tool("replay", "--rate", "200", settings=settings)
        assert replayed.out.startswith("replayed 5 dead letters\n")
        await wire.until_count(CREATED_DEAD, 5)
        if replays in (1, 12):
            lines = await listed(settings)
            assert sorted(each["messageId"] for each in lines) == [f"m-{number}" for number in range(5)]
            for each in lines:
                assert (each["replays"], each["errorCode"]) == (replays, "INVALID_EVENT")
                assert len(each["replayedErrors"]) == min(replays, 10)
                assert all("INVALID_EVENT: orgId" in error for error in each["replayedErrors"])
                assert each["replayedErrors"] == sorted(each["replayedErrors"])


@pytest.mark.usefixtures("worker")
async def test_one_command_replays_no_dead_letter_twice(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue
) -> None:
    """Meanwhile somebody else takes dead letters out, so that the command reaches those that have failed again."""
    for _ in range(12):
        await die(wire, b"never valid")
    replay = asyncio.create_task(tool("replay", "--rate", "5", settings=settings))
    await until_published(published, 2)
    for _ in range(4):
        assert "x-replay-count" not in (await wire.take_from(CREATED_DEAD)).headers
    finished = await replay
    assert (finished.code, finished.out.splitlines()[0]) == (0, "replayed 8 dead letters")
    await wire.until_count(CREATED_DEAD, 8)
    assert Counter(each["replays"] for each in await listed(settings)) == {1: 8}


@pytest.mark.usefixtures("worker")
async def test_a_replay_that_is_killed_loses_and_doubles_nothing(
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


async def test_a_replay_that_fails_prints_how_many_it_replayed(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue
) -> None:
    for _ in range(50):
        await die(wire, run_created())
    replay = asyncio.create_task(tool("replay", "--rate", "10", settings=settings))
    await until_published(published, 2)
    await wire.channel.queue_delete(CREATED_DEAD)
    result = await replay
    assert (result.code, "no queue" in result.err) == (3, True)
    assert 2 <= int(result.out.split()[1]) < 50


async def test_an_event_that_rabbitmq_refuses_stays_a_dead_letter(
    settings: WorkerSettings, wire: Wire, queues: None
) -> None:
    full = await wire.channel.declare_queue(
        exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await wire.channel.default_exchange.publish(aio_pika.Message(b"first"), full.name)
    await full.bind("export-runs.events", "#")
    await die(wire, run_created())
    result = await tool("replay", settings=settings)
    assert (result.code, result.out.splitlines()[0]) == (3, "replayed 0 dead letters")
    assert "RabbitMQ does not take the event: its queue is full" in result.err
    assert await wire.count_in(CREATED_DEAD) == 1


async def test_a_dry_run_changes_nothing(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue, connection: Connection
) -> None:
    await die(wire, run_created())
    await die(wire, run_created(), code="INVALID_EVENT")
    plan = await tool("replay", "--dry-run", settings=settings)
    assert (plan.code, plan.out.splitlines()) == (
        0,
        [
            "would replay 2 dead letters",
            f"  {CREATED_DEAD}: 1 INVALID_EVENT",
            f"  {CREATED_DEAD}: 1 UNSTORABLE",
        ],
    )
    plan = await tool("discard", "--all", "--reason", "why not", settings=settings)
    assert (plan.code, plan.out.splitlines()[0]) == (0, "would discard 2 dead letters")
    assert plan.err == "nothing was done; add --yes to do it\n"
    assert await wire.count_in(CREATED_DEAD) == 2
    assert await published.get(fail=False) is None
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 0


async def test_unroutable_events_are_replayed_to_the_queue_of_their_type(
    settings: WorkerSettings, wire: Wire, queues: None
) -> None:
    queue = await wire.channel.get_queue("export-runs.run-created")
    await queue.unbind("export-runs.events", "run-created")
    await wire.publish("run-created", run_created(), message_id="m-known")
    await queue.bind("export-runs.events", "run-created")
    await wire.publish("run.created", run_created(), message_id="m-unknown")

    replayed = await tool("replay", settings=settings)
    assert (replayed.code, replayed.out.splitlines()[0]) == (1, "replayed 1 dead letter")
    assert replayed.err == "left 1: no queue takes the routing key 'run.created'\n"
    assert (await wire.take_from(queue.name)).message_id == "m-known"
    assert [each["messageId"] for each in await listed(settings)] == ["m-unknown"]

    with_type = ["replay", "--queue", "export-runs.unroutable", "--to-type", "run-created"]
    replayed = await tool(*with_type, settings=settings)
    assert (replayed.code, replayed.out.splitlines()[0]) == (0, "replayed 1 dead letter")
    message = await wire.take_from(queue.name)
    assert (message.message_id, message.type) == ("m-unknown", "run-created")
    assert await wire.count_in(UNROUTABLE) == 0


async def test_an_event_past_the_delivery_limit_can_be_replayed(
    settings: WorkerSettings, wire: Wire, published: AbstractQueue
) -> None:
    """RabbitMQ dead-letters it and says why. An error code that the exporter has forged is ignored."""
    forged = {"x-error-code": "FORGED", "x-failed-at": "2001-01-01T00:00:00Z", "x-trace": "t-1"}
    await wire.publish("run-created", run_created(), message_id="m-1", headers=forged)
    await until_published(published, 1)
    queue = await wire.channel.get_queue("export-runs.run-created")
    while (message := await queue.get(fail=False)) is not None or await wire.count_in(queue.name):
        if message is not None:
            await message.reject(requeue=True)
    await wire.until_count(CREATED_DEAD, 1)
    [dead] = await listed(settings, "--error-code", "delivery_limit", "--newer-than", "1h")
    assert (dead["messageId"], dead["errorCode"]) == ("m-1", "DELIVERY_LIMIT")
    assert "export-runs.run-created" in dead["errorDetail"]

    replayed = await tool("replay", settings=settings)
    assert "1 DELIVERY_LIMIT" in replayed.out
    [message] = await until_published(published, 1)
    assert set(message.headers) == {
        "x-publishers", "x-trace", "x-replay-count", "x-replayed-errors", "x-replay-id"
    }  # fmt: skip
    assert "DELIVERY_LIMIT" in errors_of(message)[0]


class RecordingAction:
    """An action that only records which letters it was applied to."""

    def __init__(self) -> None:
        self.message_ids: list[str | None] = []

    def obstacle(self, letter: DeadLetter, delivery: Delivery) -> str | None:
        return "stays" if letter.message_id == "stays" else None

    async def apply(self, letter: DeadLetter, delivery: Delivery) -> None:
        self.message_ids.append(letter.message_id)


async def test_a_long_replay_gives_back_the_messages_that_it_does_not_replay(
    settings: WorkerSettings, wire: Wire, queues: None
) -> None:
    """Otherwise RabbitMQ would close its channel. Messages that it gave back are read again, and replayed once."""
    for number in range(4):
        await die(wire, b"x", message_id=f"no-{number}", code="INVALID_EVENT")
        await die(wire, b"x", message_id=f"yes-{number}")
    await die(wire, b"x", message_id="stays")
    action, report = RecordingAction(), ActionReport()
    async with open_browser(settings, BrowseLimits(hold_s=0)) as browser:
        counts = [await browser.count(CREATED_DEAD)]
        selection = Selection(error_code="UNSTORABLE")
        await apply_action(action, browser, counts, selection, report, lambda: None, dry_run=False)
    assert action.message_ids == [f"yes-{number}" for number in range(4)]
    assert (counts[0].selected, counts[0].settled) == (5, 4)
    left = [each["messageId"] for each in await listed(settings)]
    assert sorted(left) == [*(f"no-{number}" for number in range(4)), "stays"]
