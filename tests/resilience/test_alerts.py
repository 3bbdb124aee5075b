"""Alerts: nobody waits for them, and they wait for nobody, whatever happens to the broker, a subscriber or a worker."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from handlers.alerts import take_alerts
from local.rabbitmq import LocalRabbitMQ
from schema import names
from sql.connection import Connection
from tests.chaos.proxy import Proxy
from tests.conftest import running_worker, worker_settings
from tests.integration.double_exports.conftest import resolve
from tests.integration.reservations.conftest import finish, reserve
from tests.resilience.conftest import Limit, Wires, opened
from tests.resilience.observing import Log, publish_all, rabbitmqctl, until, until_finished, until_serving
from tests.wire import POLL_S, WAIT_S, Json, Wire, run_finished
from worker.database.pool import Pool
from worker.jobs.alert_outbox import retry_delay_s
from worker.limits import WorkerLimits
from worker.session import WorkerParts
from worker.settings import WorkerSettings

QUICK_S = 3.0
"""What waits for nobody takes no longer than this, also on a machine that is shared."""

TURN_S = 15
"""So long, an organisation's alert may take beside another one's hundreds."""

WATCH_S = 3
TRANSACTIONS_MAX = 30
"""More than a worker without work writes meanwhile, the test itself, and PostgreSQL when it cleans up elsewhere."""

QUICK_RETRIES = WorkerLimits(alerts_interval_s=0.1, alert_delay_first_s=0.2, alert_delay_max_s=0.8)


@dataclass
class Subscriber:
    """A queue that is bound to the exchange of the alerts, and what has arrived there."""

    queue: str
    alerts: list[Json] = field(default_factory=list)

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Note an alert."""
        self.alerts.append(json.loads(message.body))

    def run_ids(self, org_id: str = "org-1") -> list[str]:
        """The runs of an organisation that alerts came for, in their order."""
        return [alert["runId"] for alert in self.alerts if alert["orgId"] == org_id]


@asynccontextmanager
async def subscriber(amqp_url: str, *, consumes: bool = True, **arguments: Any) -> AsyncIterator[Subscriber]:
    """A subscriber that takes what it gets at once, or one that takes nothing."""
    connection = await aio_pika.connect(amqp_url, timeout=WAIT_S)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"subscriber-{uuid4().hex}", durable=True, arguments=arguments)
        exchange = await channel.declare_exchange(names.ALERTS_EXCHANGE, "topic", durable=True)
        await queue.bind(exchange, "#")
        found = Subscriber(queue.name)
        if consumes:
            await queue.consume(found.take, no_ack=True)
        try:
            yield found
        finally:
            await queue.delete(if_unused=False, if_empty=False)


async def until_alerted(listener: Subscriber, alerts: int = 1, within_s: float = WAIT_S) -> None:
    """Wait for so many alerts."""
    await until(lambda: len({alert["eventId"] for alert in listener.alerts}) >= alerts, within_s)


async def in_outbox(connection: Connection) -> int:
    waiting: int = await connection.fetchval("SELECT count(*) FROM alerts")
    return waiting


async def until_empty(connection: Connection, within_s: float = 20) -> None:
    """Wait until every alert is published."""

    async def is_empty() -> bool:
        return not await in_outbox(connection)

    await until(is_empty, within_s)


def ends(claims: Sequence[str], runs: int, org_id: str = "org-1") -> list[Json]:
    """So many runs that export the same claims."""
    return [run_finished(orgId=org_id, claimIds=claims) for _ in range(runs)]


async def test_another_organisations_alert_waits_behind_nobody(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection
) -> None:
    """400 runs that share a claim, then two of another organisation."""
    async with running_worker(settings, pool):
        await until_serving(wire)
        async with subscriber(settings.amqp_url.get_secret_value()) as listener:
            many, two = ends(["c-1"], 400), ends(["c-1"], 2, "org-2")
            await publish_all(wire, "run-finished", many)
            await publish_all(wire, "run-finished", two)
            await until(lambda: stored(connection, "org-2", 2))
            await until(lambda: listener.run_ids("org-2"), TURN_S)
            await until(lambda: len(set(listener.run_ids())) == 399)
            await until_empty(connection)
            assert Counter(listener.run_ids()).most_common(1)[0][1] == 1
    assert await connection.fetchval("SELECT count(*) FROM double_exported_claims WHERE org_id = 'org-1'") == 1


async def stored(connection: Connection, org_id: str, runs: int) -> bool:
    count: int = await connection.fetchval("SELECT count(*) FROM export_runs WHERE org_id = $1", org_id)
    return count == runs


async def test_an_outbox_full_of_one_organisations_alerts(
    settings: WorkerSettings, pool: Pool, connection: Connection
) -> None:
    """As many as pairs of 400 runs once made. They go out in their turn, and so does the other one."""
    insert = (
        "INSERT INTO alerts (org_id, event_id, occurred_at, run_id, claim_count, claim_ids, earlier_run_ids, found_by,"
        " next_attempt_at) SELECT $1, gen_random_uuid(), now(), gen_random_uuid(), 1, '{c}', '{}', 'repeated-in-run',"
        " now() FROM generate_series(1, $2::integer)"
    )
    await connection.execute(insert, "org-1", 79_800)
    async with running_worker(settings, pool), subscriber(settings.amqp_url.get_secret_value()) as listener:
        await until(lambda: len(listener.run_ids()) > 100)
        await connection.execute(insert, "org-2", 1)
        await until(lambda: listener.run_ids("org-2"), TURN_S)
    assert await in_outbox(connection) > 0


async def insert_alerts(connection: Connection, organisations: int, due_in_s: int) -> None:
    """An alert of each of so many organisations."""
    await connection.execute(
        "INSERT INTO alerts (org_id, event_id, occurred_at, run_id, claim_count, claim_ids, earlier_run_ids, found_by,"
        " next_attempt_at) SELECT 'many-' || number, gen_random_uuid(), now(), gen_random_uuid(), 1, '{c}', '{}',"
        " 'repeated-in-run', now() + make_interval(secs => $2) FROM generate_series(1, $1::integer) AS number",
        organisations,
        due_in_s,
    )


@pytest.mark.parametrize("organisations", [19, 20, 21, 200])
async def test_alerts_that_are_not_due_keep_nobody_busy(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection, organisations: int
) -> None:
    """A subscriber has no room, and the alerts of many organisations wait. The worker looks for others at intervals."""

    async def transactions() -> int:
        """How many have written so far, this one included."""
        number: int = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
        return number

    await insert_alerts(connection, organisations, due_in_s=3_600)
    async with running_worker(settings, pool), subscriber(settings.amqp_url.get_secret_value()) as listener:
        await until_serving(wire)
        before = await transactions()
        await asyncio.sleep(WATCH_S)
        assert await transactions() - before <= TRANSACTIONS_MAX
        await insert_alerts(connection, 1, due_in_s=0)
        await until_alerted(listener)
        assert listener.alerts[0]["orgId"] == "many-1"


@pytest.fixture
async def publishing_proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    """The worker's wire for publishing."""
    async with opened(amqp_url, Proxy) as proxy:
        yield proxy


async def test_nobody_waits_for_an_alert_whose_confirm_does_not_come(
    settings: WorkerSettings,
    pool: Pool,
    wire: Wire,
    wires: Wires,
    connection: Connection,
    publishing_proxy: Proxy,
) -> None:
    """Not another end of the pair, nor a reservation of the claim, nor a resolution: no lock is held meanwhile."""
    wires.proxies["publishing"] = publishing_proxy
    one, two = ends(["c-1"], 2)
    async with running_worker(settings, pool, wires.parts):
        await until_serving(wire)
        async with publishing_proxy.frozen():
            await publish_all(wire, "run-finished", [one, two])
            await until(lambda: taken(connection))
            async with asyncio.timeout(QUICK_S):
                await wire.publish("run-finished", {**two, "eventId": str(uuid4()), "externalAckId": "told again"})
                await wire.until_run(two["runId"], hasConflict=True)
            async with asyncio.timeout(QUICK_S):
                reserved = {"orgId": "org-1", "runId": str(uuid4()), "claimIds": ["c-1"]}
                reply = await wire.result("reserve-claims", **reserved, override={"reason": "r", "approvedBy": "carol"})
                assert reply["granted"] == ["c-1"]
            async with asyncio.timeout(QUICK_S):
                resolution = {"orgId": "org-1", "claimId": "c-1", "resolvedBy": "bob", "note": "n"}
                assert (await wire.result("resolve-double-export", **resolution))["resolvedBy"] == "bob"
            assert await in_outbox(connection) == 1
            async with asyncio.timeout(QUICK_S):
                while await idle_in_transaction(connection):
                    await asyncio.sleep(POLL_S)
        await until_empty(connection)


async def taken(connection: Connection) -> bool:
    """Whether an alert is being published."""
    found: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM alerts WHERE attempts > 0)")
    return found


async def idle_in_transaction(connection: Connection) -> int:
    """The worker's transactions that wait for something other than PostgreSQL."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'export-runs' AND state LIKE 'idle in%'"
        " AND datname = current_database()"
    )
    return found


async def test_nobody_waits_while_the_broker_takes_nothing(
    database_url: str, pool: Pool, connection: Connection, log: Log, broker_server: LocalRabbitMQ
) -> None:
    """An alarm: alerts stay in the database, and are not sent over and over."""
    settings = worker_settings(broker_server.url, database_url)
    limits = WorkerLimits(alert_publish_timeout_s=4, alert_delay_first_s=0.1, alert_delay_max_s=0.1)
    async with (
        running_worker(settings, pool, WorkerParts(limits=limits)),
        subscriber(broker_server.url) as listener,
    ):
        try:
            await rabbitmqctl(broker_server, "set_vm_memory_high_watermark", "0.000001")
            for _ in range(2):
                await finish(connection, uuid4(), "completed", "c-1")
            await until(lambda: taken(connection))
            async with asyncio.timeout(QUICK_S):
                await finish(connection, uuid4(), "completed", "c-1")
                await resolve(connection, "c-1", runCount=3)
                await reserve(connection, uuid4(), "c-1", override={"reason": "r", "approvedBy": "carol"})
            await log.until("connection_blocked")
            await asyncio.sleep(3 * limits.alert_publish_timeout_s)
            assert listener.alerts == []
            assert await connection.fetchval("SELECT max(attempts) FROM alerts") <= 2
        finally:
            await rabbitmqctl(broker_server, "set_vm_memory_high_watermark", "0.4")
        await until_empty(connection)
        copies = Counter(alert["eventId"] for alert in listener.alerts)
    assert len(copies) == 2
    assert max(copies.values()) <= 3
    assert log.of("session_lost") == []


async def test_a_subscriber_whose_queue_is_full_is_nobody_elses_problem(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection, log: Log
) -> None:
    """The others hear of every alert at once, and of none over and over. It gets all, when it has room."""
    url = settings.amqp_url.get_secret_value()
    full = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    async with (
        running_worker(settings, pool),
        subscriber(url, consumes=False, **full) as slow,
        subscriber(url) as listener,
    ):
        await until_serving(wire)
        expected = [f"c-{number}" for number in range(12)]
        for number, claim_id in enumerate(expected, start=1):
            await publish_all(wire, "run-finished", ends([claim_id], 2))
            await until_alerted(listener, number, TURN_S)
        await log.until("alerts_not_confirmed")
        await asyncio.sleep(12)
        copies = Counter(alert["eventId"] for alert in listener.alerts)
        assert len(copies) == 12
        assert max(copies.values()) <= 3
        await connection.execute("UPDATE alerts SET next_attempt_at = now()")
        got: set[str] = set()
        while got != set(expected):
            got.update(json.loads((await wire.take_from(slow.queue)).body)["claimIds"])
            await connection.execute("UPDATE alerts SET next_attempt_at = least(next_attempt_at, now() + '1 s')")
        await until_empty(connection)
    assert await wire.count_in(names.ALERTS_QUEUE) == 0
    assert log.of("session_lost") == []


async def test_the_queue_of_alerts_holds_what_nobody_is_bound_for(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection
) -> None:
    async with running_worker(settings, pool):
        await until_serving(wire)
        for _ in range(2):
            await until_finished(wire, "c-1")
        left = await wire.take_from(names.ALERTS_QUEUE)
        assert (left.routing_key, left.type, left.delivery_mode) == (*("double-export-detected",) * 2, 2)
        async with subscriber(settings.amqp_url.get_secret_value()) as listener:
            await until_finished(wire, "c-1")
            await until_alerted(listener)
            await until_empty(connection)
        assert await wire.count_in(names.ALERTS_QUEUE) == 0
        await until_finished(wire, "c-1")
        last = await wire.take_from(names.ALERTS_QUEUE)
    assert json.loads(last.body)["eventId"] not in {json.loads(left.body)["eventId"], listener.alerts[0]["eventId"]}


async def test_a_worker_removes_the_binding_that_earlier_versions_made(
    settings: WorkerSettings, pool: Pool, wire: Wire
) -> None:
    """With it, that queue gets every alert, and is in everybody's way when it is full."""
    async with running_worker(settings, pool):
        await until_serving(wire)
    queue = await wire.channel.get_queue(names.ALERTS_QUEUE)
    await queue.bind(names.ALERTS_EXCHANGE, "#")
    for alerts in (1, 2):  # the second time there is nothing to remove
        async with running_worker(settings, pool), subscriber(settings.amqp_url.get_secret_value()) as listener:
            await until_serving(wire)
            for _ in range(2):
                await until_finished(wire, "c-1")
            await until_alerted(listener, alerts)
    assert await wire.count_in(names.ALERTS_QUEUE) == 0


async def test_a_full_queue_of_alerts(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, limit: Limit, connection: Connection
) -> None:
    """Alerts that find no room in it stay in the database, until there is room; subscribers never notice."""
    parts = WorkerParts(topology=await limit(names.ALERTS_QUEUE, "x-max-length", 1), limits=QUICK_RETRIES)
    claims = {f"twice-{number}" for number in range(10)}
    async with running_worker(settings, pool, parts):
        await until_serving(wire)
        for claim_id in claims:
            for _ in range(2):
                await until_finished(wire, claim_id)
        await log.until("alerts_not_confirmed")
        async with subscriber(settings.amqp_url.get_secret_value()) as listener:
            await until(lambda: in_outbox_is(connection, 0))
            heard = [alert["claimIds"][0] for alert in listener.alerts]
        kept = [await wire.take_from(names.ALERTS_QUEUE) for _ in range(await wire.count_in(names.ALERTS_QUEUE))]
    assert len(heard) == len(set(heard))
    assert kept
    assert {*heard, *(json.loads(message.body)["claimIds"][0] for message in kept)} == claims
    assert log.of("session_lost") == log.of("database_unavailable") == []


async def in_outbox_is(connection: Connection, count: int) -> bool:
    return await in_outbox(connection) == count


async def test_what_a_worker_took_before_it_died_is_published_by_another(
    settings: WorkerSettings, pool: Pool, connection: Connection
) -> None:
    for run_id in (uuid4(), uuid4(), uuid4()):
        await finish(connection, run_id, "completed", "c-1")
    [mine] = await take_alerts(connection, ["org-1"], 1, taken_s=3)
    async with subscriber(settings.amqp_url.get_secret_value()) as listener, running_worker(settings, pool):
        await until(lambda: len(listener.alerts) == 1)
        assert listener.run_ids() != [str(mine.alert.run_id)]
        await until(lambda: len(listener.alerts) == 2)
        assert listener.alerts[1] == json.loads(mine.alert.model_dump_json())
        await until_empty(connection)


async def test_of_several_workers_none_publishes_what_another_does(
    settings: WorkerSettings, pool: Pool, wire: Wire, connection: Connection
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(running_worker(settings, pool))
        await until_serving(wire)
        listener = await stack.enter_async_context(subscriber(settings.amqp_url.get_secret_value()))
        expected: Counter[str] = Counter()
        for org_id in ("org-1", "org-2", "org-3"):
            events = ends([f"c-{number}" for number in range(3)], 60, org_id)
            await publish_all(wire, "run-finished", events)
            expected.update(event["runId"] for event in events)
        await until(lambda: len(listener.alerts) >= 3 * 59)
        await until_empty(connection)
    heard = Counter(alert["runId"] for alert in listener.alerts)
    assert max(heard.values()) == 1
    assert len(heard) == 3 * 59
    assert heard.keys() <= expected.keys()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE alerts SET occurred_at = '14000-01-01' WHERE org_id = 'org-2'",
        "UPDATE alerts SET claim_ids = array_fill('c'::text, ARRAY[101]) WHERE org_id = 'org-2'",
    ],
    ids=["a time", "too many claims"],
)
async def test_an_alert_that_cannot_be_read_is_its_organisations_problem(
    settings: WorkerSettings, pool: Pool, wire: Wire, log: Log, connection: Connection, damage: str
) -> None:
    """Python knows no such time, and the contract no alert with so many claims."""
    for org_id in ("org-1", "org-2", "org-3"):
        for _ in range(2):
            await finish(connection, uuid4(), "completed", "c-1", orgId=org_id)
    await connection.execute(damage)
    async with subscriber(settings.amqp_url.get_secret_value()) as listener, running_worker(settings, pool):
        await log.until("alerts_failed")
        await until(lambda: len(listener.alerts) == 2)
        await until_serving(wire)
    assert {alert["orgId"] for alert in listener.alerts} == {"org-1", "org-3"}
    assert {line["org_id"] for line in log.of("alerts_failed")} == {"org-2"}


def test_the_pauses_of_an_alert_grow_up_to_a_bound() -> None:
    limits = WorkerLimits(alert_delay_first_s=5, alert_delay_max_s=300)
    assert [retry_delay_s(attempts, limits) for attempts in (1, 2, 3, 6, 7, 8, 10_000)] == [
        5,
        10,
        20,
        160,
        300,
        300,
        300,
    ]
