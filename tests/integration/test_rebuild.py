"""A rebuild mends every damage of every table that follows from the log, and changes nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from handlers import rebuild as module
from handlers.rebuild import Rebuild, RebuildRefused, plan_rebuild, rebuild
from handlers.verification import _Verifying, verify
from sql.connection import Connection
from sql.replayed_tables import OUTSIDE, RebuiltTables, StoredTables, find_stored_tables
from tests.conftest import connected
from tests.integration.conftest import until_blocked
from tests.log_history import write_history
from tests.wire import WAIT_S

SECOND_SCHEMA = "export_runs_rebuild"


async def rebuilt(url: str, said: list[str] | None = None) -> Rebuild:
    """Rebuild the tables, on a connection of its own."""
    connection = await connected(url)
    await connection.execute("SET lock_timeout = '1s'")  # of what nobody waits for
    try:
        return await rebuild(connection, lambda done, total: None, (said if said is not None else []).append)
    finally:
        await connection.close()


async def differences(url: str) -> list[Any]:
    """What a verification finds, on a connection of its own."""
    connection = await connected(url)
    try:
        return (await verify(connection, lambda done, total: None)).differences
    finally:
        await connection.close()


async def rows_of(connection: Connection, tables: Sequence[str]) -> dict[str, list[str]]:
    """The rows of tables as texts, sorted."""
    return {
        table: [row["row"] for row in await connection.fetch(f"SELECT row::text FROM {table} AS row ORDER BY 1")]  # noqa: S608
        for table in tables
    }


async def tables_in(connection: Connection, schema: str) -> set[str]:
    """The names of the tables in a schema."""
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    return {row["tablename"] for row in rows}


@pytest.fixture
async def history(connection: Connection) -> Connection:
    """A database in which everything has happened that the log knows."""
    await write_history(connection)
    return connection


DAMAGES = ("every row is lost", "a row is lost", "a row is doubled", "another organisation has the rows")


async def damage(connection: Connection, table: str, kind: str) -> None:
    """Damage a table."""
    match kind:
        case "every row is lost":
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608
        case "a row is lost":
            await connection.execute(
                f"DELETE FROM {table} WHERE ctid = (SELECT min(ctid) FROM {table})"  # noqa: S608
            )
        case "a row is doubled":
            key = "run_id" if table in ("export_runs", "claim_details") else "org_id"
            value = "gen_random_uuid()" if key == "run_id" else "'made-up'"
            await connection.execute(
                f"CREATE TEMPORARY TABLE made_up AS SELECT * FROM {table} LIMIT 1;"  # noqa: S608
                f"UPDATE made_up SET {key} = {value};"
                f"INSERT INTO {table} SELECT * FROM made_up;"
                "DROP TABLE made_up"
            )
        case _:
            await connection.execute(f"UPDATE {table} SET org_id = 'eve'")  # noqa: S608


@pytest.mark.parametrize("kind", DAMAGES)
async def test_every_table_is_mended(history: Connection, database_url: str, kind: str) -> None:
    stored = await find_stored_tables(history)
    outside = await rows_of(history, (*OUTSIDE, "export_run_events", "database_identity"))
    assert all(outside.values())
    for table in stored.compared:
        await damage(history, table, kind)
    assert {each.table for each in await differences(database_url)} == set(stored.compared)
    assert (await rebuilt(database_url)).tables == stored.compared
    assert await differences(database_url) == []
    assert await rows_of(history, list(outside)) == outside
    assert await tables_in(history, SECOND_SCHEMA) == set()


@pytest.mark.parametrize("number", range(len(DAMAGES)))
async def test_a_table_is_mended_where_the_others_are_whole(
    history: Connection, database_url: str, number: int
) -> None:
    """Each table once, and each kind of damage."""
    tables = (await find_stored_tables(history)).compared
    for table in tables[number :: len(DAMAGES)]:
        await damage(history, table, DAMAGES[number])
        assert {each.table for each in await differences(database_url)} == {table}
        assert (await rebuilt(database_url)).tables == tables
        assert await differences(database_url) == []


async def test_pages_and_rounds_of_one_entry_come_to_the_same(
    history: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.log_replay.PAGE_ENTRIES_MAX", 2)
    monkeypatch.setattr("handlers.log_replay.WAITING_ENTRIES_MAX", 3)
    monkeypatch.setattr(module, "ORGANISATIONS_PAGE", 1)
    await history.execute("DELETE FROM export_runs; DELETE FROM export_run_claims")
    result = await rebuilt(database_url)
    assert result.entry_count == await history.fetchval(
        "SELECT count(*) FROM export_run_events WHERE org_id IS NOT NULL"
    )
    assert await differences(database_url) == []


CATALOG = {
    "columns": (
        "SELECT relname, attname, atttypid::regtype, attnotnull, attcollation, pg_get_expr(adbin, adrelid),"
        " col_description(attrelid, attnum), attacl"
        " FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attnum > 0 AND NOT attisdropped"
    ),
    "constraints": (
        "SELECT relname, conname, pg_get_constraintdef(pg_constraint.oid), convalidated"
        " FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid WHERE true"
    ),
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes JOIN pg_class ON relname = indexname WHERE true",
    "tables": (
        "SELECT relname, relowner::regrole, relacl, reloptions, relpersistence, obj_description(oid, 'pg_class')"
        " FROM pg_class WHERE relkind = 'r'"
    ),
}


async def catalog(connection: Connection) -> dict[str, list[str]]:
    """What PostgreSQL knows of the tables in the schema public, without the numbers that it gives them."""
    return {
        name: [
            str(tuple(row))
            for row in await connection.fetch(f"{query} AND relnamespace = 'public'::regnamespace ORDER BY 1, 2")
        ]
        for name, query in CATALOG.items()
    }


async def test_the_new_tables_are_like_the_old_ones(history: Connection, database_url: str) -> None:
    """Indexes, checks, comments, storage parameters and grants: a later migration finds all of them by their names."""
    role = f"reader_{uuid4().hex[:8]}"
    for statement in (
        "CREATE ROLE {}",
        "GRANT SELECT, DELETE ON export_runs TO {}",
        "GRANT SELECT ON claim_overrides TO PUBLIC",
        "GRANT INSERT ON claim_details TO {} WITH GRANT OPTION",
        "GRANT UPDATE (outcome) ON export_run_claims TO {}",
        "ALTER TABLE export_run_claims SET (autovacuum_vacuum_scale_factor = 0.05, fillfactor = 90)",
        "COMMENT ON TABLE export_runs IS 'it''s a comment'",
    ):
        await history.execute(statement.format(role))
    before = await catalog(history)
    try:
        await rebuilt(database_url)
        assert await catalog(history) == before
    finally:
        await history.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


OBSTACLES = {
    "a view": ("CREATE VIEW report AS SELECT run_id FROM export_runs", "view report uses the table export_runs"),
    "a foreign key": (
        "CREATE TABLE mine (run_id uuid REFERENCES export_runs)",
        "on table mine uses the table export_runs",
    ),
    "a trigger": (
        "CREATE TRIGGER mine BEFORE UPDATE ON claim_overrides EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "trigger mine on table claim_overrides uses the table claim_overrides",
    ),
    "a publication": (
        "CREATE PUBLICATION mine FOR TABLE claim_details",
        "the publication mine publishes the table claim_details",
    ),
    "a publication of all tables": (
        "CREATE PUBLICATION mine FOR ALL TABLES",
        "the publication mine publishes the table",
    ),
    "an owner": ("ALTER TABLE export_runs OWNER TO pg_monitor", "the table export_runs belongs to the role pg_monitor"),
    "a next version": (
        "INSERT INTO export_runs_migrations (version, name, sha256) VALUES (9999, 'next', '')",
        "the next version has migrated the database",
    ),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
async def test_what_a_new_table_would_lose_is_refused(history: Connection, database_url: str, obstacle: str) -> None:
    statement, sentence = OBSTACLES[obstacle]
    assert (await plan_rebuild(history)).obstacles == []
    await history.execute(statement)
    with pytest.raises(RebuildRefused, match=sentence):
        await rebuilt(database_url)
    assert any(sentence in each for each in (await plan_rebuild(history)).obstacles)


async def test_what_uses_the_type_of_a_table_is_refused_at_the_exchange(history: Connection, database_url: str) -> None:
    await history.execute(
        "CREATE FUNCTION mine(run export_runs) RETURNS uuid LANGUAGE sql AS 'SELECT ($1).run_id';"
        "DELETE FROM export_run_claims"
    )
    with pytest.raises(RebuildRefused, match="function mine"):
        await rebuilt(database_url)
    assert await tables_in(history, SECOND_SCHEMA) == set()
    assert await history.fetchval("SELECT count(*) FROM export_run_claims") == 0


async def test_an_unusable_entry_is_refused(history: Connection, database_url: str) -> None:
    await history.execute(
        "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)"
        " VALUES ($1, 'run-finished', 'event', $1, 'org-1', now(), '{\"status\": \"lost\"}')",
        UUID(int=77),
    )
    with pytest.raises(
        RebuildRefused, match=f"1 log entries cannot be replayed, the first is {UUID(int=77)} of organisation org-1"
    ):
        await rebuilt(database_url)
    assert await tables_in(history, SECOND_SCHEMA) == set()


async def test_one_rebuild_at_a_time(history: Connection, database_url: str) -> None:
    assert await history.fetchval("SELECT pg_try_advisory_lock(hashtextextended('export-runs migrate', 0))")
    with pytest.raises(RebuildRefused, match="another `export-runs rebuild` or `export-runs migrate` is at work"):
        await rebuilt(database_url)


@asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[Connection]:
    """A session that has done something in a transaction that it does not end."""
    holder = await asyncpg.connect(url, server_settings={"application_name": "a report"})
    await holder.execute(f"BEGIN; {statement}")
    try:
        yield holder
    finally:
        await holder.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild that waits for nobody for long."""
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 4)
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    monkeypatch.setattr(module, "LOCKS_WAIT_MAX_S", 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "statement",
    ["SELECT FROM export_runs", "LOCK TABLE export_run_events IN ROW EXCLUSIVE MODE", "LOCK TABLE claim_details"],
)
async def test_a_lock_is_refused(history: Connection, database_url: str, statement: str) -> None:
    await history.execute("DELETE FROM export_run_claims")
    said: list[str] = []
    async with holding(database_url, statement) as holder:
        process = rf"process {holder.get_server_pid()} \(a report, idle in transaction\) holds the tables"
        with pytest.raises(RebuildRefused, match=f"{process}; nothing was changed, repeat the command later"):
            await rebuilt(database_url, said)
    assert len(said) <= 1, "it is said once"
    assert await tables_in(history, SECOND_SCHEMA) == set()
    assert await history.fetchval("SELECT count(*) FROM export_run_claims") == 0
    await rebuilt(database_url)
    assert await differences(database_url) == []


@pytest.mark.usefixtures("impatient")
async def test_what_comes_in_while_a_lock_is_held(
    history: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are stored all the time, and the attempt that gets the lock has replayed them."""
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 10_000)
    await history.execute("DELETE FROM export_run_claims")
    said: list[str] = []
    async with holding(database_url, "SELECT FROM export_runs") as holder:
        rebuilding = asyncio.create_task(rebuilt(database_url, said))
        turns = 0
        while not rebuilding.done() and (not said or turns < 3):
            await write_history(history, prefix=f"turn-{turns}-")
            turns += 1
        assert not rebuilding.done()
        await holder.execute("COMMIT")
        await rebuilding
    assert await differences(database_url) == []


async def test_a_verification_that_waits_for_the_exchange_sees_all_rows_of_the_new_tables(
    history: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event comes in between the last round and the exchange, so it is replayed in the transaction of the latter."""
    verifying, rebuilding = await connected(database_url), await connected(database_url)
    prepared, locked = asyncio.Event(), asyncio.Event()
    compare, exchange, lock = _Verifying.compare, RebuiltTables.exchange, StoredTables.lock

    async def compare_when_locked(self: _Verifying, organisations: Any) -> str | None:
        prepared.set()
        await locked.wait()
        return await compare(self, organisations)

    async def lock_after_an_event(self: StoredTables, connection: Connection, mode: str) -> None:
        if mode == module.KEEPS_AUTOVACUUM_OUT:
            await write_history(history, prefix="late-")
        await lock(self, connection, mode)

    async def exchange_beside(self: RebuiltTables) -> None:
        locked.set()
        await until_blocked(history, verifying)
        await exchange(self)

    monkeypatch.setattr(_Verifying, "compare", compare_when_locked)
    monkeypatch.setattr(StoredTables, "lock", lock_after_an_event)
    monkeypatch.setattr(RebuiltTables, "exchange", exchange_beside)
    monkeypatch.setattr(module, "OTHERS_WAIT_MAX_S", WAIT_S)
    verification = asyncio.create_task(verify(verifying, lambda done, total: None))
    await prepared.wait()
    await rebuild(rebuilding, lambda done, total: None, lambda line: None)
    assert (await verification).differences == []
    for connection in (verifying, rebuilding):
        await connection.close()


async def test_beside_writers(database_url: str) -> None:
    """Writers keep their sessions, with the statements that those have prepared, and meet no error."""
    writers = [await connected(database_url) for _ in range(2)]
    turns = [0] * len(writers)
    stopping = asyncio.Event()

    async def write(writer: Connection, number: int) -> None:
        while not stopping.is_set():
            await write_history(writer, prefix=f"writer-{number}-{turns[number]}-")
            turns[number] += 1

    tasks = [asyncio.create_task(write(writer, number)) for number, writer in enumerate(writers)]
    results = [await rebuilt(database_url)]
    while len(results) < 2 or min(turns) < 2:
        results.append(await rebuilt(database_url))
    stopping.set()
    await asyncio.gather(*tasks)
    assert results[-1].entry_count > results[0].entry_count
    assert await differences(database_url) == []
    for writer in writers:
        await writer.close()


async def test_what_an_earlier_rebuild_has_left_is_dropped(history: Connection, database_url: str) -> None:
    await history.execute(f"CREATE SCHEMA {SECOND_SCHEMA}; CREATE TABLE {SECOND_SCHEMA}.export_runs (half int)")
    await rebuilt(database_url)
    assert await tables_in(history, SECOND_SCHEMA) == set()
    assert await differences(database_url) == []


async def test_a_schema_of_that_name_with_other_things_in_it_is_left_alone(
    history: Connection, database_url: str
) -> None:
    await history.execute(f"CREATE SCHEMA {SECOND_SCHEMA}; CREATE TABLE {SECOND_SCHEMA}.mine (half int)")
    with pytest.raises(RebuildRefused, match="cannot drop schema export_runs_rebuild"):
        await rebuilt(database_url)
    assert await tables_in(history, SECOND_SCHEMA) == {"mine"}
