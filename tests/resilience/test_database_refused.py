"""The database comes, and is not as the worker needs it. The worker says so, holds its events, and goes on later."""

from dataclasses import replace

import sql
from tests.conftest import database_settings, running_worker, worker_settings
from tests.resilience.observing import Log
from tests.wire import Wire, run_created
from worker.database.migrations import migrate
from worker.database.pool import open_pool
from worker.limits import DEFAULT_LIMITS
from worker.session import DEFAULT_PARTS

PARTS = replace(DEFAULT_PARTS, limits=replace(DEFAULT_LIMITS, retry_delay_max_s=0.2))


async def test_a_schema_that_is_not_ours(amqp_url: str, empty_url: str, wire: Wire, log: Log) -> None:
    """As where the database was away when the worker started, and came back restored from an older copy."""
    settings = worker_settings(amqp_url, empty_url)
    created = run_created()
    async with open_pool(settings, PARTS.database_connections_max) as pool, running_worker(settings, pool, PARTS):
        await wire.publish("run-created", created)
        assert (await wire.error("check-claims", {"orgId": "org-1", "claimIds": ["c-1"]}))["code"] == "UNAVAILABLE"
        await log.until("database_refused")
        count = len(sql.migrations())
        assert log.of("database_refused")[0]["reason"] == (
            f"{count} migrations are missing: run `export-runs migrate` first"
        )
        await migrate(database_settings(empty_url), sql.migrations())
        await log.until("database_available")
        await wire.until_run(created["runId"])
    assert log.of("event_failed") == []
