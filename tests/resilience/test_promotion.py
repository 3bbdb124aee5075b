"""The primary of PostgreSQL is lost, and its synchronous standby promoted: workers find it by the URL of both."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from local.postgresql import LocalPostgreSQL
from local.processes import descendants
from tests.chaos.proxy import Proxy
from tests.chaos.standby import Standby
from tests.conftest import DATABASE_CONNECTIONS_MAX, running_worker, with_database, worker_settings
from tests.resilience.conftest import opened, private_database
from tests.resilience.observing import Log, until, until_all_stored, until_serving
from tests.wire import POLL_S, Wire, run_finished
from worker.database.pool import open_pool

ORGANISATION = "org-promotion"

CLAIMS = 50
"""So many are exported before the primary is lost, and as many afterwards."""

EXPIRATION_S = 1
"""How long the guard waits for an answer."""

BACK_S = 10
"""How long after the promotion events are stored and requests answered again."""


@asynccontextmanager
async def synchronous_standby(primary: LocalPostgreSQL) -> AsyncIterator[Standby]:
    """A standby that each commit waits for. At the end the primary runs again, alone."""
    standby = Standby(primary)
    try:
        await standby.start()
        yield standby
    finally:
        standby.close()
        primary.kill()
        primary.start()
        admin = await asyncpg.connect(primary.url)
        await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()


def lose(server: LocalPostgreSQL, how: str) -> None:
    """Have a server gone. One that is stopped takes connections, and says no word, like a machine without power."""
    if how == "killed":
        server.kill()
        return
    for pid in (server.pid, *descendants(server.pid)):
        os.kill(pid, signal.SIGSTOP)


class Exports:
    """An exporter that works all the time, and a guard that asks for what was exported.

    `problems` are answers that were wrong. Once a claim was answered as exported, it must always be.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._done = asyncio.Event()
        self._exported: set[str] = set()
        self.confirmed: dict[str, str] = {}
        """By the id of an event that was confirmed, its claim."""
        self.problems: list[str] = []
        self.answers = 0

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Publish and ask meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._publish, self._ask):
                tasks.create_task(self._repeat(work))
            try:
                yield
            finally:
                self._done.set()

    async def _publish(self) -> None:
        claim_id = f"c-{len(self.confirmed)}"
        event = run_finished(orgId=ORGANISATION, claimIds=[claim_id])
        await self._wire.publish("run-finished", event)
        self.confirmed[event["eventId"]] = claim_id

    async def _ask(self) -> None:
        claim_ids = list(self.confirmed.values())[-CLAIMS:] or ["none"]
        body = {"orgId": ORGANISATION, "claimIds": claim_ids}
        reply = await self._wire.ask("check-claims", body, expiration=EXPIRATION_S)
        if reply["ok"]:
            exported = {each["claimId"] for each in reply["result"]["exported"]}
            self.problems += [f"{each} is free again" for each in self._exported.intersection(claim_ids) - exported]
            self._exported |= exported
            self.answers += 1
        elif reply["error"]["code"] != "UNAVAILABLE":
            self.problems.append(f"{reply}")

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self._done.is_set():
            await work()
            await asyncio.sleep(POLL_S)


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_promoted_standby_is_used(
    amqp_url: str, wire: Wire, log: Log, database_server: LocalPostgreSQL, how: str
) -> None:
    """Every confirmed event is stored once, and no answer takes back what was answered before.

    The primary is behind a proxy, which hangs up on who connects while the primary does not run.
    """
    async with (
        private_database(database_server) as url,
        synchronous_standby(database_server) as standby,
        opened(database_server.url, Proxy) as proxy,
    ):
        hosts = f"127.0.0.1:{proxy.port},127.0.0.1:{standby.port}"
        several = url.replace(f"127.0.0.1:{database_server.port}", hosts) + "?sslmode=disable"
        settings = worker_settings(amqp_url, several, statement_timeout_s=1)
        exports = Exports(wire)
        async with open_pool(settings, DATABASE_CONNECTIONS_MAX) as pool, running_worker(settings, pool):
            await until_serving(wire)
            async with exports.going_on():
                await until(lambda: len(exports.confirmed) >= CLAIMS and exports.answers)
                await asyncio.to_thread(lose, database_server, how)
                await log.until("database_unavailable")
                await log.until("events_kept")
                promoted = with_database((await standby.promote()).url, url.rpartition("/")[2])
                await until_serving(wire, BACK_S)
                before, answers = len(exports.confirmed), exports.answers
                await until(lambda: len(exports.confirmed) >= before + CLAIMS and exports.answers > answers)
            await until_all_stored(promoted, list(exports.confirmed))
        assert exports.problems == []
        connection = await asyncpg.connect(promoted)
        rows = await connection.fetch(
            "SELECT claim_id, count(*) FROM export_run_claims WHERE org_id = $1 GROUP BY claim_id", ORGANISATION
        )
        await connection.close()
        assert {row["claim_id"]: row["count"] for row in rows} == dict.fromkeys(exports.confirmed.values(), 1)
