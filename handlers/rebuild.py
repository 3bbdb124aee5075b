"""Make the tables that follow from the log anew, while workers go on, and put them in the place of the stored ones.

The log is replayed into tables in a schema of their own, up to a place in its order that is safe: no entry before it is
still to be committed. Then what has come meanwhile, round by round. When little is left, writers are kept out: the rest
is replayed, and the tables are exchanged in the same transaction (docs/decisions/rebuild-by-exchange.md).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, TypeAlias

import asyncpg
from asyncpg import Record

import sql
from schema.limits import INT64_MAX
from sql.connection import Connection, transaction
from sql.replayed_tables import RebuiltTables, StoredTables, find_stored_tables, rebuilt_tables

from .log_replay import INT64_MIN, LogPage, Replay, read_log_page

CAUGHT_UP_S: Final = 1.0
"""When a round takes no longer, the rest that it leaves is replayed while everybody waits."""

LOCKS_WAIT_MAX_S: Final = 0.7
"""While the command waits for a lock, everybody who comes for that table waits behind it. Who holds one table and waits
for another waits in a circle with it. The command must be the one that gives up, so this is shorter than the 1 s after
which PostgreSQL looks for circles (deadlock_timeout)."""

OTHERS_WAIT_MAX_S: Final = 3.0
"""An exchange that has kept others waiting for so long gives up, before they do."""

ATTEMPTS_MAX: Final = 60
PAUSE_S: Final = 1.0
"""Between two attempts."""

ORGANISATIONS_PAGE: Final = 1_000

KEEPS_AUTOVACUUM_OUT: Final = "SHARE UPDATE EXCLUSIVE"
"""No reader or writer waits for it. When the command has waited for an autovacuum for 1 s, PostgreSQL ends that."""

_IN_THE_WAY: Final = (
    # QueryCanceledError: an administrator has cancelled it, so that others can go on.
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
    TimeoutError,
)

ReportProgress: TypeAlias = Callable[[int, int], None]
"""Told how many entries were replayed, and of about how many."""

Say: TypeAlias = Callable[[str], None]


class RebuildRefused(Exception):
    """The tables cannot be made anew now, or not at all. Nothing was changed. The text says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """What a rebuild makes anew: which tables, how many bytes they take now, of about how many log entries."""

    tables: Sequence[str]
    stored_bytes: int
    entry_count: int
    obstacles: Sequence[str]
    """What is in the way, in sentences."""


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What was made anew, and of how many log entries."""

    tables: Sequence[str]
    entry_count: int


async def plan_rebuild(connection: Connection) -> RebuildPlan:
    """What a rebuild would do. It changes nothing, and waits for nobody."""
    stored = await find_stored_tables(connection)
    tables = (stored.schema, stored.compared)
    obstacles = [row["obstacle"] for row in await connection.fetch(sql.query("list_obstacles_to_rebuild"), *tables)]
    if len(await connection.fetch(sql.query("list_applied_migrations"))) > len(sql.migrations()):
        obstacles.append("the next version has migrated the database, and may log what this version cannot replay")
    return RebuildPlan(
        tables=stored.compared,
        stored_bytes=await connection.fetchval(sql.query("measure_tables"), *tables),
        entry_count=await connection.fetchval(sql.query("count_log"), None),
        obstacles=obstacles,
    )


async def rebuild(connection: Connection, report: ReportProgress, say: Say) -> Rebuild:
    """Make the tables anew from the log and exchange them. Raises RebuildRefused.

    `connection` is used for nothing else, before and afterwards: it finds other tables, and keeps a lock until it is
    closed. `say` is told what the command waits for. What an attempt that was cut short has left is dropped first.
    """
    try:
        return await _rebuild(connection, report, say)
    except asyncpg.LockNotAvailableError:
        holders = await _lock_holders(connection, await find_stored_tables(connection))
        raise RebuildRefused(f"{holders}; nothing was changed, repeat the command later") from None
    except asyncpg.DependentObjectsStillExistError as error:
        raise RebuildRefused(f"{error.args[0]}: {error.detail}; nothing was changed") from None


async def _rebuild(connection: Connection, report: ReportProgress, say: Say) -> Rebuild:
    plan = await plan_rebuild(connection)
    if plan.obstacles:
        raise RebuildRefused(f"{'; '.join(plan.obstacles)}; nothing was changed")
    if not await connection.fetchval(sql.query("try_lock_migrations")):
        raise RebuildRefused("another `export-runs rebuild` or `export-runs migrate` is at work; nothing was changed")
    stored = await find_stored_tables(connection)
    async with rebuilt_tables(connection, stored) as rebuilt:
        rebuilding = _Rebuilding(
            connection, stored, rebuilt, say, lambda done: report(done, max(done, plan.entry_count))
        )
        await rebuilding.run()
    return Rebuild(stored.compared, rebuilding.entry_count)


class _Rebuilding:
    """A rebuild under way."""

    def __init__(
        self,
        connection: Connection,
        stored: StoredTables,
        rebuilt: RebuiltTables,
        say: Say,
        report: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._stored = stored
        self._rebuilt = rebuilt
        self._say = say
        self._report = report
        self._replayed_to = INT64_MIN
        self._safe_position = INT64_MIN
        self._obstacle = "events come in faster than they are replayed"
        self.entry_count = 0

    async def run(self) -> None:
        """Replay the log and exchange the tables. Raises RebuildRefused."""
        is_vacuumed = False
        for _ in range(ATTEMPTS_MAX):
            if not await self._attempt(self._find_safe_position):
                continue
            start_s = perf_counter()
            await self._replay(self._safe_position)
            self._replayed_to = self._safe_position
            is_caught_up = perf_counter() - start_s <= CAUGHT_UP_S
            if not is_vacuumed:
                await self._rebuilt.vacuum()
                is_vacuumed = True
            elif is_caught_up and await self._attempt(self._exchange):
                return
        raise RebuildRefused(
            f"the tables were not exchanged in {ATTEMPTS_MAX} attempts, because {self._obstacle}; nothing was changed, "
            "repeat the command later"
        )

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something that others wait for; returns whether nobody was in the way."""
        try:
            # The time-out ends before the commit, so it is never in doubt whether that took place.
            async with transaction(self._connection), asyncio.timeout(OTHERS_WAIT_MAX_S):
                await work()
        except _IN_THE_WAY:
            await self._say_what_is_in_the_way()
            await asyncio.sleep(PAUSE_S)
            return False
        return True

    async def _find_safe_position(self) -> None:
        await self._stored.lock_log(self._connection, KEEPS_AUTOVACUUM_OUT)
        async with asyncio.timeout(LOCKS_WAIT_MAX_S):
            await self._stored.lock_log(self._connection, "SHARE")  # keeps writers out
        self._safe_position = await self._connection.fetchval(sql.query("get_last_log_position"))

    async def _exchange(self) -> None:
        await self._stored.lock(self._connection, KEEPS_AUTOVACUUM_OUT)
        await self._rebuilt.lock(KEEPS_AUTOVACUUM_OUT)
        async with asyncio.timeout(LOCKS_WAIT_MAX_S):
            await self._stored.lock(self._connection, "ACCESS EXCLUSIVE")
        # Whoever has touched the tables has committed, and so has its entry in the log. Whoever has written an entry
        # that is not here yet touches the tables when these are exchanged.
        await self._replay(INT64_MAX)
        await self._rebuilt.exchange()

    async def _replay(self, last_position: int) -> None:
        """Replay what comes after what was replayed, up to a place that is safe.

        In the order of the log within each organisation, which is all that matters. Raises RebuildRefused.
        """
        replay = Replay(self._connection)
        async for entries in self._pages():
            for entry in entries:
                if entry["position"] <= last_position:
                    await replay.add(entry)
            self._report(self.entry_count + replay.entry_count)
        await replay.flush()
        if replay.unusable:
            first = replay.unusable[0]
            raise RebuildRefused(
                f"{len(replay.unusable)} log entries cannot be replayed, the first is {first.event_id} of organisation "
                f"{first.org_id}: {first.reason}; nothing was changed"
            )
        self.entry_count += replay.entry_count

    async def _pages(self) -> AsyncIterator[list[Record]]:
        """What the log has after what was replayed, by organisation."""
        above = ""
        while rows := await self._connection.fetch(sql.query("list_log_organisations"), above, ORGANISATIONS_PAGE):
            for row in rows:
                page = LogPage(row["org_id"], self._replayed_to, row["org_id"])
                while page.above_position < row["position"] and (
                    entries := await read_log_page(self._connection, page)
                ):
                    yield entries
                    page = page.after(entries[-1])
            above = rows[-1]["org_id"]

    async def _say_what_is_in_the_way(self) -> None:
        obstacle = await _lock_holders(self._connection, self._stored)
        if obstacle != self._obstacle:
            self._obstacle = obstacle
            self._say(f"waiting: {obstacle}")


async def _lock_holders(connection: Connection, stored: StoredTables) -> str:
    rows = await connection.fetch(sql.query("list_lock_holders"), stored.schema, stored.compared, LOCKS_WAIT_MAX_S)
    return f"{', '.join(map(_session, rows)) or 'somebody'} holds the tables"


def _session(row: Record) -> str:
    """A session for a person: what another user's session does may be hidden from us."""
    what = [row["application_name"] or row["backend_type"], row["state"]]
    return f"process {row['pid']} ({', '.join(filter(None, what)) or 'hidden'})"
