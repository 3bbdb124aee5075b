"""What tests of bad messages share: a worker that must still work after the test."""

from collections.abc import AsyncIterator

import pytest

from schema import names
from tests.conftest import running_worker
from tests.wire import Wire
from worker.broker.topology import TOPOLOGY
from worker.database.pool import Pool
from worker.settings import WorkerSettings

EMPTY_QUEUES = [queue.name for queue in TOPOLOGY.queues if queue.name != names.ALERTS_QUEUE]


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """One database per file, empty at the start of each test."""
    return emptied_url


@pytest.fixture(autouse=True)
async def unharmed_worker(
    settings: WorkerSettings, pool: Pool, wire: Wire, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """A worker that must still answer after the test. It must have lost no connection, and all queues must be empty."""
    async with running_worker(settings, pool):
        await wire.ready()
        yield
        await wire.ready()
    errors = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelname == "ERROR" and record.name.startswith(("aio_pika", "aiormq"))
    ]
    assert errors == [], "a connection was lost, or a callback failed"
    counts = {queue: await wire.count_in(queue) for queue in EMPTY_QUEUES}
    assert not any(counts.values()), counts
