"""What tests of bad messages share: a worker that must come through unharmed."""

from collections.abc import AsyncIterator

import pytest

from schema import names
from tests.conftest import running_worker
from tests.wire import Wire
from worker.database import Pool
from worker.settings import WorkerSettings
from worker.topology import QUEUES

EMPTIED = [queue.name for queue in QUEUES if queue.name != names.ALERTS_QUEUE]


@pytest.fixture
async def unharmed_worker(
    settings: WorkerSettings, pool: Pool, wire: Wire, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """A worker that still answers after the test, and then has left no message unsettled or dead unseen."""
    async with running_worker(settings, pool):
        await wire.ready()
        yield
        await wire.ready()
    errors = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelname == "ERROR" and record.name.startswith(("aio_pika", "aiormq"))
    ]
    assert errors == [], "a connection was lost, or worse"
    left = {queue: await wire.count_in(queue) for queue in EMPTIED}
    assert not any(left.values()), left
