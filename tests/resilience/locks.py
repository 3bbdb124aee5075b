"""Tables that somebody else has locked, or that are slow."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg

from sql.connection import Connection


@asynccontextmanager
async def locked(database_url: str, table: str) -> AsyncIterator[None]:
    """Whoever reads or writes a table waits."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def waiting(database_url: str, statements: int) -> bool:
    """Whether so many statements wait for a lock."""
    connection = await asyncpg.connect(database_url)
    found = await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
    await connection.close()
    return bool(found >= statements)


async def slow_down(connection: Connection, org_id: str, seconds: float) -> None:
    """Have PostgreSQL take so long for each new run of organisations; `org_id` is a pattern of LIKE."""
    name = f"slow_down_{uuid4().hex}"
    await connection.execute(
        f"""
        CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$;
        CREATE TRIGGER {name} BEFORE INSERT ON export_runs
        FOR EACH ROW WHEN (NEW.org_id LIKE '{org_id}') EXECUTE FUNCTION {name}();
        """
    )
