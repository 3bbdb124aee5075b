"""A worker that stores events and answers requests in one process."""

import uvloop

from worker.app import run_worker
from worker.broker.malformed_frames import tolerate_malformed_properties
from worker.settings import WorkerSettings

if __name__ == "__main__":
    tolerate_malformed_properties()
    uvloop.run(run_worker(WorkerSettings()))
