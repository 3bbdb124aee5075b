"""A nameko service with psycopg2 that answers which claims have gone out. `nameko run` runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from eventlet.queue import LifoQueue
from eventlet.support.psycopg2_patcher import make_psycopg_green
from nameko.extensions import DependencyProvider
from nameko.rpc import rpc

from benchmarks.peers.environment import NAMEKO_SERVICE, database_url
from benchmarks.statements import statement

make_psycopg_green()  # so that the other workers run while one waits for the database

Row = tuple[Any, ...]


class Database(DependencyProvider):
    """One connection per worker of nameko."""

    def setup(self) -> None:
        """Connect to the database."""
        self._connections = LifoQueue()
        for _ in range(self.container.max_workers):
            connection = psycopg2.connect(database_url())
            connection.autocommit = True
            self._connections.put(connection)

    def get_dependency(self, worker_ctx: object) -> "Database":
        """Return what nameko assigns to `self.database`."""
        return self

    def fetch(self, query: str, *parameters: object) -> list[Row]:
        """Run a query and return its rows."""
        with self._connection() as connection, connection.cursor() as cursor:
            cursor.execute(query, parameters)
            rows: list[Row] = cursor.fetchall()
            return rows

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        connection = self._connections.get()
        try:
            yield connection
        finally:
            self._connections.put(connection)


class Claims:
    """The service."""

    name = NAMEKO_SERVICE
    database = Database()

    @rpc
    def check(self, org_id: str, claim_ids: list[str]) -> dict[str, Any]:
        """Split the claims into exported and unexported ones."""
        runs: dict[str, list[dict[str, str]]] = {}
        rows = self.database.fetch(statement("peer_check_claims_psycopg"), claim_ids, org_id)
        for claim_id, run_id, status, finished_at in rows:
            exported_by = {"runId": run_id, "status": status, "finishedAt": finished_at.isoformat()}
            runs.setdefault(claim_id, []).append(exported_by)
        return {
            "exported": [{"claimId": claim, "runs": runs[claim]} for claim in claim_ids if claim in runs],
            "unexported": [claim for claim in claim_ids if claim not in runs],
        }
