"""What must be reported, on disk: a crash, or a broker that is away, forgets nothing that was paid.

A spool is a folder. Each client that exports has an SQLite file of its own in it, and holds the lock of that file as
long as it lives. A file whose lock is free was left by a process that has died: whoever finds it reports what is in it.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, ParamSpec, TypeVar
from uuid import UUID, uuid4

from .errors import ExportRunsError

SPOOL_BYTES_MAX: Final = 1024 * 1024 * 1024
"""No new export begins while so much waits in a client's file. Exports that have begun may still write."""

LOCK_TIMEOUT_S: Final = 5.0
"""For a new file: somebody may look at that moment whether its owner has died."""

SUFFIX: Final = ".sqlite3"

P = ParamSpec("P")
T = TypeVar("T")

_TABLES: Final = (
    "CREATE TABLE runs (run_id TEXT PRIMARY KEY, org_id TEXT NOT NULL, changed_at TEXT NOT NULL, facts TEXT NOT NULL)",
    "CREATE TABLE claims (run_id TEXT NOT NULL, claim_id TEXT NOT NULL, outcome TEXT NOT NULL, details TEXT NOT NULL,"
    " PRIMARY KEY (run_id, claim_id))",
    "CREATE TABLE events (position INTEGER PRIMARY KEY AUTOINCREMENT, event_type TEXT NOT NULL, org_id TEXT NOT NULL,"
    " body BLOB NOT NULL)",
)
_HAS_TABLES: Final = "SELECT count(*) FROM sqlite_schema WHERE name = 'events'"
_INSERT_RUN: Final = "INSERT INTO runs VALUES (?, ?, ?, '{}')"
_UPDATE_RUN: Final = "UPDATE runs SET changed_at = ? WHERE run_id = ?"
_UPDATE_FACTS: Final = "UPDATE runs SET facts = ? WHERE run_id = ?"
_LIST_RUNS: Final = "SELECT run_id FROM runs ORDER BY rowid"
_GET_RUN: Final = "SELECT org_id, changed_at, facts FROM runs WHERE run_id = ?"
_DELETE_RUN: Final = "DELETE FROM runs WHERE run_id = ?"
_WRITE_CLAIM: Final = "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)"
_LIST_CLAIMS: Final = "SELECT claim_id, outcome, details FROM claims WHERE run_id = ? ORDER BY rowid"
_DELETE_CLAIMS: Final = "DELETE FROM claims WHERE run_id = ?"
_INSERT_EVENT: Final = "INSERT INTO events (event_type, org_id, body) VALUES (?, ?, ?)"
_FIRST_EVENT: Final = "SELECT position, event_type, org_id, body FROM events ORDER BY position LIMIT 1"
_DELETE_EVENT: Final = "DELETE FROM events WHERE position = ?"
_SIZE_BYTES: Final = (
    "SELECT (page_count - freelist_count) * page_size"
    " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
)
_COUNT: Final = "SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM events)"


class SpoolFull(ExportRunsError):
    """So much waits to be reported that no new export may begin. Nothing was written, reserved or paid."""


class UnreadableRuns(ExportRunsError):
    """A process that has died left runs that this version cannot read. All others of its file are reported."""


class Outcome(StrEnum):
    """What is known of a claim that was granted to a run. Without an outcome nothing was done with it."""

    IN_DOUBT = "in-doubt"
    """It is being paid, or was when the exporter failed: it may be out."""

    EXPORTED = "exported"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """What became of a claim. `details` is the JSON of a ClaimDetails or a SkippedClaim, or empty."""

    claim_id: str
    outcome: Outcome
    details: str = ""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run that has not ended, as the spool has it. `facts` is the JSON of what is told at its end."""

    run_id: UUID
    org_id: str
    changed_at: datetime
    facts: str
    claims: list[ClaimRecord]


@dataclass(frozen=True, slots=True)
class SpooledEvent:
    """An event that RabbitMQ has not confirmed yet."""

    position: int
    event_type: str
    org_id: str
    body: bytes


class Spool:
    """One file of a spool, and its lock. Each write is on the disk when the method returns.

    The methods block for as long as the disk takes. From a coroutine they are called by `do`.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="export-runs-spool")

    async def do(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of this object in its thread. What has begun is done, also if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, lambda: method(*args, **kwargs)))

    def begin_run(self, run_id: UUID, org_id: str, event_type: str, body: bytes) -> None:
        """Write down a run and the event of its start. Raises SpoolFull."""
        [size_bytes] = self._database.execute(_SIZE_BYTES).fetchone()
        if size_bytes > SPOOL_BYTES_MAX:
            raise SpoolFull(f"{self.path} has more than {SPOOL_BYTES_MAX:,} bytes that wait to be reported")
        with self._transaction():
            self._database.execute(_INSERT_RUN, (str(run_id), org_id, _now()))
            self._database.execute(_INSERT_EVENT, (event_type, org_id, body))

    def write_claims(self, run_id: UUID, claims: Iterable[ClaimRecord]) -> None:
        """Write down what becomes of claims; it replaces what was known of them."""
        with self._transaction():
            rows = ((str(run_id), claim.claim_id, claim.outcome, claim.details) for claim in claims)
            self._database.executemany(_WRITE_CLAIM, rows)
            self._database.execute(_UPDATE_RUN, (_now(), str(run_id)))

    def write_facts(self, run_id: UUID, facts: str) -> None:
        """Write down what else is to be told at the end of a run."""
        with self._transaction():
            self._database.execute(_UPDATE_FACTS, (facts, str(run_id)))

    def end_run(self, run_id: UUID, org_id: str, event_type: str, body: bytes) -> None:
        """Write down the event of a run's end, in place of the run."""
        with self._transaction():
            self._database.execute(_INSERT_EVENT, (event_type, org_id, body))
            self._database.execute(_DELETE_CLAIMS, (str(run_id),))
            self._database.execute(_DELETE_RUN, (str(run_id),))

    def run_ids(self) -> list[str]:
        """The runs that have not ended."""
        return [run_id for (run_id,) in self._database.execute(_LIST_RUNS)]

    def run(self, run_id: str) -> RunRecord:
        """One of them. Raises ValueError where another version of this client wrote what this one cannot read."""
        org_id, changed_at, facts = self._database.execute(_GET_RUN, (run_id,)).fetchone()
        return RunRecord(
            run_id=UUID(run_id),
            org_id=org_id,
            changed_at=datetime.fromisoformat(changed_at),
            facts=facts,
            claims=[
                ClaimRecord(claim_id, Outcome(outcome), details)
                for claim_id, outcome, details in self._database.execute(_LIST_CLAIMS, (run_id,))
            ],
        )

    def first_event(self) -> SpooledEvent | None:
        """The event that has waited longest."""
        row = self._database.execute(_FIRST_EVENT).fetchone()
        return row and SpooledEvent(*row)

    def remove_event(self, event: SpooledEvent) -> None:
        """Forget an event that RabbitMQ has confirmed."""
        with self._transaction():
            self._database.execute(_DELETE_EVENT, (event.position,))

    def close(self) -> None:
        """Give up the lock; where nothing is left to report, remove the file."""
        self._thread.shutdown()
        [left] = self._database.execute(_COUNT).fetchone()
        if not left:
            # While the lock is held. Who waits for it finds an empty file, which does no harm.
            self.path.unlink(missing_ok=True)
        self._database.close()
        if not left:
            for suffix in ("-wal", "-journal"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def new_spool(folder: Path) -> Spool:
    """A new file in a folder, which is made where it is missing. Raises OSError or sqlite3.Error."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{uuid4()}{SUFFIX}"
    database = _opened(path, "rwc", LOCK_TIMEOUT_S)
    database.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        database.execute(statement)
    database.execute("COMMIT")
    _sync_folder(folder)
    return Spool(path, database)


def spool_files(folder: Path) -> list[Path]:
    """The files of a spool, of living clients and of dead ones."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def taken_over(path: Path) -> Spool | None:
    """The spool in a file whose owner has died, or ended before all was published; None if its owner lives.

    The caller closes it. Raises sqlite3.Error if it cannot be read.
    """
    try:
        database = _opened(path, "rw", 0)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN):
            return None  # its owner lives, or has removed it meanwhile
        raise
    [has_tables] = database.execute(_HAS_TABLES).fetchone()
    if not has_tables:
        database.close()  # its owner is about to write the first lines
        return None
    return Spool(path, database)


def _opened(path: Path, mode: str, lock_timeout_s: float) -> sqlite3.Connection:
    """A database with its lock, which is held until it is closed. Raises sqlite3.OperationalError if it is not free."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(uri, timeout=lock_timeout_s, isolation_level=None, check_same_thread=False, uri=True)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        # In this mode the first transaction takes the lock, and nothing but the end of the connection gives it back.
        database.execute("BEGIN EXCLUSIVE")
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _sync_folder(folder: Path) -> None:
    """Have the name of a new file on the disk as well, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat()
