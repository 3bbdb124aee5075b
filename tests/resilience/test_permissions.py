"""Users with the printed permissions, on a real broker: each may do its own, and nothing else."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import DeliveryError
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from cli.permissions import ROLES
from export_runs_client import ExportRuns, OrganisationNotAllowed
from local.services import LocalRabbitMQ
from schema.names import rpc_queue
from schema.operations import OPERATIONS
from tests.conftest import running_worker, worker_settings
from tests.forked import forked_export_runs
from tests.resilience.observing import Log, rabbitmqctl, until
from tests.wire import WAIT_S, Wire, next_message, run_created, run_finished
from worker.app import check_services
from worker.broker.declaration import TopologyMismatch, declare
from worker.broker.topology import TOPOLOGY, Arguments, Queue, Topology
from worker.database.pool import Pool
from worker.limits import DEFAULT_LIMITS
from worker.session import WorkerParts
from worker.settings import Misconfiguration, WorkerSettings

PASSWORD: Final = "of-a-test"
SCRATCH: Final = "export-runs.scratch"
"""A queue that is there for these tests only."""

EVENTS, RPC = "export-runs.events", "export-runs.rpc"
DEAD = "export-runs.run-created.dead"

Act = Callable[[AbstractChannel], Awaitable[Any]]


def publishing(exchange: str, routing_key: str) -> Act:
    async def act(channel: AbstractChannel) -> None:
        target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        await target.publish(aio_pika.Message(b"{}", expiration=0.001), routing_key, mandatory=False, timeout=WAIT_S)

    return act


def reading(queue: str) -> Act:
    async def act(channel: AbstractChannel) -> None:
        message = await (await channel.get_queue(queue, ensure=False)).get(fail=False, timeout=WAIT_S)
        if message is not None:
            await message.nack(requeue=True)

    return act


async def ignore(reply: AbstractIncomingMessage) -> None:
    """Nobody answers these requests."""


async def consume_replies(channel: AbstractChannel) -> None:
    replies = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
    await replies.consume(ignore, no_ack=True)


async def purge(channel: AbstractChannel) -> None:
    await (await channel.get_queue(SCRATCH, ensure=False)).purge(timeout=WAIT_S)


async def bind(channel: AbstractChannel) -> None:
    await (await channel.get_queue(SCRATCH, ensure=False)).bind(EVENTS, "scratch", timeout=WAIT_S)


def declaring(name: str | None, **options: Any) -> Act:
    return lambda channel: channel.declare_queue(name, timeout=WAIT_S, **options)


ACTS: Final[dict[str, Act]] = {
    "publish an event": publishing(EVENTS, "run-created"),
    "publish an event of an unknown type": publishing(EVENTS, "run-deleted"),
    **{f"ask {operation.name}": publishing(RPC, operation.name) for operation in OPERATIONS},
    "ask something unknown": publishing(RPC, "drop-everything"),
    "write to the dead letters": publishing("export-runs.dead-letter", "run-created"),
    "write to the unroutable ones": publishing("export-runs.unroutable", "x"),
    "write an alert": publishing("export-runs.alerts", "x"),
    "write into any queue, as a reply is": publishing("", SCRATCH),
    "write to another exchange": publishing("amq.topic", "x"),
    "take an event": reading("export-runs.run-created"),
    "take a request": reading("export-runs.rpc.check-claims"),
    "take a dead letter": reading(DEAD),
    "take an alert": reading("export-runs.alerts"),
    "take a parked event": reading("export-runs.run-created.parked"),
    "take from a queue of others": reading("others"),
    "hear direct replies": consume_replies,
    "empty a queue": purge,
    "bind a queue": bind,
    "make a queue": declaring("export-runs.another"),
    "make a queue of others": declaring("another"),
    "make a queue that RabbitMQ names": declaring(None, exclusive=True),
    "make an exchange": lambda channel: channel.declare_exchange("export-runs.another", timeout=WAIT_S),
    "delete a queue": lambda channel: channel.queue_delete("export-runs.another", timeout=WAIT_S),
    "delete an exchange": lambda channel: channel.exchange_delete("export-runs.another", timeout=WAIT_S),
    "see how long a queue is": declaring(DEAD, passive=True),
}

EVERYBODY: Final = {"hear direct replies", "see how long a queue is"}
CHECKING: Final = {"ask check-claims", "ask reserve-claims", "ask release-claims"}
SERVING: Final = {
    "take an event",
    "take a request",
    "write to the dead letters",
    "write an alert",
    "write into any queue, as a reply is",
}
ALLOWED: Final = {
    "exporter": CHECKING
    | {"publish an event", "ask create-export-run", "ask update-export-run-status", "ask get-export-run-by-id"},
    "guard": CHECKING | {"ask check-period", "ask find-runs-by-claim-id"},
    "panel": {
        "ask get-export-history",
        "ask get-export-run-by-id",
        "ask list-run-claims",
        "ask find-runs-by-claim-id",
        "ask check-claims",
        "ask explain-claim",
        "ask check-period",
        "ask get-last-export",
        "ask list-double-exports",
    },
    "operator": {
        *(f"ask {operation.name}" for operation in OPERATIONS),
        "publish an event",
        "take a dead letter",
        "take an alert",
    },
    "worker": set(ACTS)
    - {
        "write to another exchange",
        "take from a queue of others",
        "make a queue of others",
        "make a queue that RabbitMQ names",
    },
    "restricted-worker": SERVING,
    "monitor": {"ask check-claims"},
}


VHOST: Final = "restricted"


def url_of(server: LocalRabbitMQ, role: str, vhost: str = "") -> str:
    return f"amqp://test-{role}:{PASSWORD}@127.0.0.1:{server.port}/{vhost}"


def password_hash() -> str:
    """As RabbitMQ keeps it: a salt of 4 bytes, and the digest of the salt and the password."""
    salt = b"salt"
    return base64.b64encode(salt + hashlib.sha256(salt + PASSWORD.encode()).digest()).decode()


@pytest.fixture(scope="module")
def users(broker_server: LocalRabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRabbitMQ]:
    """A broker that has imported what the command prints, for one user of each role."""

    async def make() -> None:
        options = [option for role in ROLES for option in ("--user", f"{role}=test-{role}")]
        nowhere = worker_settings("amqp://127.0.0.1:1/", "postgresql://127.0.0.1:1/")
        printed = await forked_export_runs("permissions", "rabbitmq", *options, settings=nowhere)
        assert printed.code == 0
        assert "lose their passwords" in printed.err
        definitions = json.loads(printed.out)
        for user in definitions["users"]:
            assert user["password_hash"] == ""
            user["password_hash"] = password_hash()
        await rabbitmqctl(broker_server, "await_startup")  # it listens a moment before it takes commands
        file = tmp_path_factory.mktemp("permissions") / "definitions.json"
        file.write_text(json.dumps(definitions))
        await rabbitmqctl(broker_server, "import_definitions", str(file))
        # What is printed for users that are there changes no password.
        again = await forked_export_runs("permissions", "rabbitmq", *options, "--existing-users", settings=nowhere)
        assert set(json.loads(again.out)) == {"permissions", "topic_permissions"}
        file.write_text(again.out)
        await rabbitmqctl(broker_server, "import_definitions", str(file))
        async with Wire.connect(broker_server.url) as wire:
            await declare(wire.channel)
            for queue in (SCRATCH, "others"):
                await wire.channel.declare_queue(queue, durable=True)

    async def remove() -> None:
        async with Wire.connect(broker_server.url) as wire:
            for queue in (SCRATCH, "others", "export-runs.another", "another"):
                await wire.channel.queue_delete(queue)
            for each in TOPOLOGY.queues:
                await (await wire.channel.get_queue(each.name, ensure=False)).purge()

    asyncio.run(make())
    yield broker_server
    asyncio.run(remove())


async def is_allowed(connection: AbstractConnection, act: Act) -> bool:
    """Whether RabbitMQ lets this user do it. It closes the channel of one who may not."""
    channel = await connection.channel(on_return_raises=False)
    try:
        await asyncio.wait_for(act(channel), WAIT_S)
        await channel.close()
    except ChannelAccessRefused:
        return False
    return True


@pytest.mark.parametrize("role", ROLES)
async def test_a_user_may_do_its_own_and_nothing_else(users: LocalRabbitMQ, role: str) -> None:
    async with await aio_pika.connect(url_of(users, role), timeout=WAIT_S) as connection:
        allowed = {name for name, act in ACTS.items() if await is_allowed(connection, act)}
    assert allowed == ALLOWED[role] | EVERYBODY


@pytest.fixture
async def wires(users: LocalRabbitMQ) -> AsyncIterator[dict[str, Wire]]:
    """A client for each role."""
    async with AsyncExitStack() as stack:
        yield {role: await stack.enter_async_context(Wire.connect(url_of(users, role))) for role in ROLES}


async def test_the_service_works_with_these_users(
    users: LocalRabbitMQ, wires: dict[str, Wire], pool: Pool, database_url: str
) -> None:
    def settings_of(role: str) -> WorkerSettings:
        return worker_settings(url_of(users, role), database_url)

    async with Wire.connect(users.url) as admin:
        await (await admin.channel.get_queue(DEAD)).purge()
    async with running_worker(settings_of("worker"), pool):
        exporter, guard, panel = wires["exporter"], wires["guard"], wires["panel"]
        event = run_finished(claimIds=["taxi-1"])
        reserved = {"orgId": event["orgId"], "runId": event["runId"], "claimIds": event["claimIds"]}
        assert (await exporter.result("reserve-claims", **reserved))["granted"] == ["taxi-1"]
        await exporter.publish("run-created", run_created(runId=event["runId"], orgId=event["orgId"]))
        await exporter.publish("run-finished", event)
        await panel.until_run(event["runId"], status="completed", triggeredBy="alice")
        [exported] = (await guard.check(event["orgId"], "taxi-1"))["exported"]
        assert exported["runs"][0]["runId"] == event["runId"]
        await exporter.publish("run-created", {"not": "an event"})
        await wires["operator"].until_count(DEAD, 1)
        for role, code, command in (
            ("operator", 0, ["dead-letters", "list"]),
            ("operator", 0, ["dead-letters", "replay"]),
            ("operator", 0, ["history", event["orgId"]]),
            ("monitor", 0, ["status"]),
            ("monitor", 4, ["claims", "check", event["orgId"], "taxi-1"]),
        ):
            done = await forked_export_runs(*command, settings=settings_of(role))
            assert done.code == code, (command, done)
        await wires["operator"].take_from(DEAD)


@pytest.fixture
async def restricted(users: LocalRabbitMQ, tmp_path: Path) -> AsyncIterator[Wire]:
    """A virtual host that has imported the topology, and a user there who may do all that a worker may."""
    options = [option for role in ROLES for option in ("--user", f"{role}=test-{role}")]
    nowhere = worker_settings("amqp://127.0.0.1:1/", "postgresql://127.0.0.1:1/")
    topology = await forked_export_runs("topology", "--vhost", VHOST, settings=nowhere)
    rights = await forked_export_runs(
        "permissions", "rabbitmq", *options, "--vhost", VHOST, "--existing-users", settings=nowhere
    )
    file = tmp_path / "definitions.json"
    file.write_text(json.dumps({**json.loads(topology.out), **json.loads(rights.out)}))
    await rabbitmqctl(users, "import_definitions", str(file))
    async with Wire.connect(url_of(users, "worker", VHOST)) as wire:
        yield wire
    await rabbitmqctl(users, "delete_vhost", VHOST)


async def test_a_worker_that_may_configure_nothing_uses_what_is_there(
    users: LocalRabbitMQ, restricted: Wire, pool: Pool, database_url: str, log: Log
) -> None:
    settings = worker_settings(url_of(users, "restricted-worker", VHOST), database_url)
    asked = rpc_queue("check-claims")
    async with (
        Wire.connect(url_of(users, "exporter", VHOST)) as exporter,
        Wire.connect(url_of(users, "guard", VHOST)) as guard,
        running_worker(settings, pool, WorkerParts(limits=replace(DEFAULT_LIMITS, session_steady_s=0.01))),
    ):
        event = run_finished(claimIds=["taxi-1"])
        await exporter.publish("run-finished", event)
        await exporter.publish("run-finished", {"not": "an event"})
        await exporter.until_run(event["runId"], status="completed")
        await restricted.until_count("export-runs.run-finished.dead", 1)
        # Somebody deletes a queue. The worker waits until it is there again.
        await restricted.channel.queue_delete(asked)
        await until(lambda: any(reason.startswith(f"queue {asked} is missing") for reason in log.reasons()))
        with pytest.raises(Misconfiguration, match=f"AMQP_URL: queue {asked} is missing, and this user may not make"):
            await check_services(settings)
        await declare(restricted.channel)
        await guard.ready()
        await check_services(settings)

    # A limit is changed, and no queue deleted.
    pattern = r"^export-runs\.run-finished$"
    await rabbitmqctl(users, "set_policy", "--vhost", VHOST, "--priority", "1", "x", pattern, '{"max-length": 1}')

    async def until_full() -> None:
        for _ in range(100):  # RabbitMQ looks at the length a little later
            await restricted.publish("run-finished", run_finished())

    with pytest.raises(DeliveryError):
        await until_full()
    await check_services(worker_settings(url_of(users, "worker", VHOST), database_url))


async def test_a_user_writes_and_asks_for_its_own_organisations_only(
    users: LocalRabbitMQ, pool: Pool, database_url: str, tmp_path: Path
) -> None:
    """No answer tells whether another organisation has a run."""
    file = tmp_path / "organisations.toml"
    file.write_text('test-exporter = ["acme"]\ntest-panel = ["globex"]\ntest-operator = "*"')
    settings = worker_settings(url_of(users, "worker"), database_url, organisations=str(file))

    async def wire_of(stack: AsyncExitStack, role: str, *, named: bool = True) -> Wire:
        return await stack.enter_async_context(Wire.connect(url_of(users, role), f"test-{role}" if named else None))

    async with AsyncExitStack() as stack:
        exporter, panel, operator, guard = [
            await wire_of(stack, role) for role in ("exporter", "panel", "operator", "guard")
        ]
        unnamed = await wire_of(stack, "exporter", named=False)
        await stack.enter_async_context(running_worker(settings, pool))
        stored = run_finished(orgId="acme", claimIds=["taxi-1"])
        await exporter.publish("run-finished", stored)
        await operator.until_run(stored["runId"], orgId="acme")  # it may leave the organisation out

        for reason, wire in {"orgId: is not": exporter, "user_id: is required": unnamed}.items():
            event = run_finished(orgId="globex")
            await wire.publish("run-finished", event)
            letter = await operator.take_from("export-runs.run-finished.dead")
            assert letter.headers["x-error-code"] == "ORGANISATION_NOT_ALLOWED"
            assert str(letter.headers["x-error-detail"]).startswith(reason)
            assert await operator.run(event["runId"]) is None

        for who, operation, body, field in (
            (exporter, "check-claims", {"orgId": "globex", "claimIds": ["c"]}, "orgId"),
            (exporter, "reserve-claims", {"orgId": "globex", "runId": str(uuid4()), "claimIds": ["c"]}, "orgId"),
            (exporter, "get-export-run-by-id", {"runId": stored["runId"]}, "orgId"),
            (panel, "get-export-run-by-id", {"runId": stored["runId"], "orgId": "acme"}, "orgId"),
            (panel, "get-export-run-by-id", {"runId": str(uuid4()), "orgId": "acme"}, "orgId"),
            (panel, "find-runs-by-claim-id", {"claimId": "taxi-1"}, "orgId"),
            (unnamed, "check-claims", {"orgId": "acme", "claimIds": ["c"]}, "user_id"),
            (guard, "check-claims", {"orgId": "acme", "claimIds": ["c"]}, "user_id"),
        ):
            error = await who.error(operation, body)
            assert (error["code"], error["details"][0]["field"]) == ("ORGANISATION_NOT_ALLOWED", field), body
        assert (await exporter.check("acme", "taxi-1"))["exported"]
        foreign, unknown = [
            await panel.error("get-export-run-by-id", {"runId": run_id, "orgId": "globex"})
            for run_id in (stored["runId"], str(uuid4()))
        ]
        assert foreign == unknown
        assert foreign["code"] == "RUN_NOT_FOUND"

        # RabbitMQ takes nobody's word for who he is.
        with pytest.raises(ChannelPreconditionFailed, match="user_id"):
            await exporter.publish("run-finished", stored, user_id="test-operator")

        await unnamed.publish("run-finished", run_finished(orgId="acme"))
        await operator.until_count("export-runs.run-finished.dead", 1)
        as_operator = worker_settings(url_of(users, "operator"), database_url)
        left = await forked_export_runs("dead-letters", "replay", settings=as_operator)
        assert (left.code, "may not write for these organisations" in left.err) == (1, True), left
        options = "--error-code", "ORGANISATION_NOT_ALLOWED"
        done = await forked_export_runs("dead-letters", "replay", *options, settings=as_operator)
        assert done.code == 0, done
        await operator.until_count("export-runs.run-finished.dead", 0)
        async with ExportRuns.connect(url_of(users, "exporter"), user_id="test-exporter") as runs:
            assert (await runs.check_claims("acme", ["taxi-1"])).exported
            with pytest.raises(OrganisationNotAllowed):
                await runs.check_claims("globex", ["taxi-1"])


async def reject_all(users: LocalRabbitMQ, queue: str, count: int) -> None:
    """Have RabbitMQ dead-letter so many messages of a queue that no worker consumes."""
    async with Wire.connect(users.url) as admin:
        await admin.until_count(queue, count)
        for _ in range(count):
            message = await (await admin.channel.get_queue(queue, ensure=False)).get()
            await message.reject()


async def test_a_replay_gives_a_publisher_no_organisation_that_it_does_not_have(
    users: LocalRabbitMQ, wires: dict[str, Wire], pool: Pool, database_url: str, tmp_path: Path
) -> None:
    """The worker has never checked some dead letters, and each replay publishes them as the operator."""
    file = tmp_path / "organisations.toml"
    file.write_text('test-exporter = ["acme"]\ntest-operator = "*"')
    settings = worker_settings(url_of(users, "worker"), database_url, organisations=str(file))
    as_operator = worker_settings(url_of(users, "operator"), database_url)
    dead = "export-runs.run-finished.dead"
    async with (
        Wire.connect(url_of(users, "exporter"), "test-exporter") as exporter,
        Wire.connect(url_of(users, "operator"), "test-operator") as operator,
    ):
        expired, unnamed, mistyped = [run_finished(orgId="globex") for _ in range(3)]
        own = run_finished(orgId="acme")
        forged = {"x-publishers": ["test-exporter", *["test-operator"] * 100]}
        for event in (expired, own):
            await exporter.publish("run-finished", event, expiration=0.001, headers=forged)
        await wires["exporter"].publish("run-finished", unnamed, expiration=0.001, headers=forged)
        await operator.until_count(dead, 3)
        await forked_export_runs("dead-letters", "replay", settings=as_operator)
        await reject_all(users, "export-runs.run-finished", 3)
        await operator.until_count(dead, 3)
        await exporter.publish("run-finished", mistyped, type="run-created")
        async with running_worker(settings, pool):
            await operator.until_count(dead, 4)
            await forked_export_runs("dead-letters", "replay", settings=as_operator)
            await operator.until_run(own["runId"])
            await operator.until_count(dead, 3)
            options = "--queue", "run-finished", "--to-type", "run-finished"
            await forked_export_runs("dead-letters", "replay", *options, settings=as_operator)
            await operator.until_count(dead, 3)
            letters = [await operator.take_from(dead) for _ in range(3)]
            assert {letter.headers["x-error-code"] for letter in letters} == {"ORGANISATION_NOT_ALLOWED"}
            runs = [await operator.run(event["runId"]) for event in (expired, unnamed, mistyped)]
            assert runs == [None, None, None]


@pytest.mark.parametrize("header", ["CC", "BCC"])
async def test_a_header_that_routes_a_request_to_another_queue_gives_no_permission(
    wires: dict[str, Wire], users: LocalRabbitMQ, pool: Pool, database_url: str, header: str
) -> None:
    """RabbitMQ routes by these headers as well, and 3.10 does not compare permissions with them. The worker refuses."""
    event = run_finished(claimIds=["taxi-1"])
    body = {"orgId": event["orgId"], "claimIds": ["taxi-1"], "runId": event["runId"]}  # a check
    body |= {"reason": "r", "reversedBy": "eve", "approvedBy": "mallory"}  # and a reversal
    settings = worker_settings(url_of(users, "worker"), database_url)
    async with Wire.connect(users.url) as admin, running_worker(settings, pool):
        replies = await admin.channel.declare_queue("reply.of-eve", exclusive=True)
        await wires["exporter"].publish("run-finished", event)
        await wires["exporter"].until_run(event["runId"], status="completed")
        message = aio_pika.Message(
            json.dumps(body).encode(), headers={header: ["reverse-export"]}, reply_to="reply.of-eve", correlation_id="c"
        )
        for sender in (admin, wires["monitor"]):
            exchange = await sender.channel.get_exchange(RPC, ensure=False)
            try:
                await exchange.publish(message, "check-claims", timeout=WAIT_S)
            except ChannelAccessRefused:
                assert sender is not admin  # who has every permission
                break
            answers = [json.loads((await next_message(replies)).body) for _ in range(2)]
            fields = [None if answer["ok"] else answer["error"]["details"][0]["field"] for answer in answers]
            assert set(fields) == {None, "routing_key"}
            assert [answer["result"]["exported"] for answer in answers if answer["ok"]]
        assert (await wires["guard"].check(event["orgId"], "taxi-1"))["exported"]


REQUIRED: Final = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
LIMITS: Final[Arguments] = {"x-queue-leader-locator": "balanced", "x-max-length": 10, "x-delivery-limit": 50}


@pytest.mark.parametrize(
    ("found", "differing"),
    [
        ({**REQUIRED, **LIMITS}, []),
        ({**REQUIRED}, ["x-delivery-limit", "x-max-length"]),
        ({**REQUIRED, **LIMITS, "x-max-length": 9}, ["x-max-length"]),
        ({**REQUIRED, **LIMITS, "x-queue-leader-locator": "client-local"}, []),
        ({**REQUIRED, **LIMITS, "x-max-length-bytes": 1_000_000}, ["x-max-length-bytes"]),
        ({**LIMITS, "x-queue-type": "quorum"}, None),
        ({**LIMITS, "x-queue-type": "quorum", "x-overflow": "drop-head"}, None),
        ({**REQUIRED, **LIMITS, "x-message-ttl": 1}, None),
        ({"x-max-length": 10, "x-overflow": "reject-publish"}, None),
    ],
)
async def test_a_queue_with_other_limits_is_used_and_one_with_other_properties_refused(
    amqp_url: str, log: Log, found: Arguments, differing: list[str] | None
) -> None:
    name = "export-runs.test-of-limits"
    topology = Topology((), (Queue(name, "amq.topic", name, dict(REQUIRED), dict(LIMITS)),))
    async with Wire.connect(amqp_url) as wire:
        await wire.channel.declare_queue(name, durable=True, arguments=found)
        try:
            if differing is None:
                with pytest.raises(TopologyMismatch, match=f"queue {name}: .*inequivalent arg"):
                    await declare(wire.channel, topology)
            else:
                await declare(wire.channel, topology)
                lines = log.of("queue_limit_differs")
                assert sorted(line["argument"] for line in lines) == differing
                assert {line["value"] for line in lines} <= {*found.values(), None}
        finally:
            await wire.channel.queue_delete(name)
