"""What the roles of the service may do in PostgreSQL, and nothing else."""

import asyncpg
import pytest

import sql
from sql import Migration
from sql.connection import Connection
from tests.conftest import as_role, database_settings, make_roles
from worker.database.gate import Gate
from worker.database.migrations import grant, migrate

LOG_ROW = (
    "INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload) "
    "VALUES (gen_random_uuid(), 'run-created', 'event', gen_random_uuid(), 'acme', now(), '{}')"
)

REFUSED_TO_ALL = (
    "UPDATE export_run_events SET payload = '{}'",
    "DELETE FROM export_run_events",
    "TRUNCATE export_run_events",
    "ALTER TABLE export_run_events DISABLE TRIGGER append_only",
    "DROP TRIGGER append_only ON export_run_events",
    "CREATE OR REPLACE FUNCTION refuse_change_of_event_log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "SET session_replication_role = replica",
    "CREATE RULE r AS ON DELETE TO export_run_events DO INSTEAD NOTHING",
    "DROP TABLE export_runs",
    "DROP SEQUENCE claim_fencing_tokens",
    "DROP FUNCTION canonical_claim_id",
    "DROP SCHEMA public CASCADE",
    "ALTER TABLE export_runs ADD COLUMN x text",
    "CREATE INDEX ON export_runs (format)",
    "CREATE TABLE x ()",
    "CREATE FUNCTION x() RETURNS void LANGUAGE sql AS ''",
    "CREATE SCHEMA x",
    "CREATE ROLE x",
    "ALTER ROLE export_runs_owner PASSWORD 'x'",
    "SET ROLE export_runs_owner",
    "GRANT export_runs_owner TO current_user",
    "COPY export_runs TO PROGRAM 'true'",
    "DELETE FROM export_run_claims",
    "DELETE FROM export_runs",
    "UPDATE database_identity SET grants_held_until = NULL",
    "DELETE FROM export_runs_migrations",
    "SELECT setval('claim_fencing_tokens', 1)",
)

REFUSED_TO_READERS = (
    LOG_ROW,
    "UPDATE export_runs SET status = status",
    "INSERT INTO export_run_claims VALUES ('c', 'o', gen_random_uuid(), 'exported')",
    "DELETE FROM claim_leases",
    "DELETE FROM alerts",
    "SELECT nextval('claim_fencing_tokens')",
)


async def refused(connection: Connection, statement: str) -> bool:
    """Whether PostgreSQL says that the role may not."""
    try:
        async with connection.transaction():
            await connection.execute(statement)
            raise asyncpg.PostgresError("it may")
    except asyncpg.InsufficientPrivilegeError as error:
        # The trigger says the same with these words. It must not be needed.
        return "append-only" not in str(error)
    except asyncpg.PostgresError:
        return False


@pytest.mark.parametrize("role", ["worker", "auditor", "operator"])
async def test_each_role_reads_everything_and_can_neither_change_the_log_nor_drop_anything(
    database_url: str, role: str
) -> None:
    await make_roles(database_url)
    connection = await asyncpg.connect(as_role(database_url, role))
    for row in await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    ):
        await connection.execute(f"TABLE {row['relname']}")
    await Gate(sql.migrations(), {}).check(connection)
    wrong = REFUSED_TO_ALL if role == "worker" else REFUSED_TO_ALL + REFUSED_TO_READERS
    assert [statement for statement in wrong if not await refused(connection, statement)] == []
    # A temporary table hides a stored one from its own session.
    assert await refused(connection, "CREATE TEMPORARY TABLE export_runs ()") == (role == "worker")
    await connection.close()
    stranger = await asyncpg.connect(database_url)
    await stranger.execute("CREATE ROLE export_runs_test_stranger LOGIN PASSWORD 'x'")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await asyncpg.connect(database_url, user="export_runs_test_stranger", password="x")
    await stranger.execute("DROP ROLE export_runs_test_stranger")
    await stranger.close()


async def test_the_worker_appends_to_the_log(database_url: str) -> None:
    connection = await asyncpg.connect(as_role(database_url, "worker"))
    await connection.execute(LOG_ROW)
    assert await connection.fetchval("SELECT count(*) FROM export_run_events") == 1
    await connection.close()


async def owners(connection: Connection) -> set[str]:
    """Who owns a table, a sequence, a routine or a type of the service."""
    rows = await connection.fetch(
        "SELECT relowner::regrole::text AS owner FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
        "UNION SELECT typowner::regrole::text FROM pg_type WHERE typnamespace = 'public'::regnamespace"
    )
    return {row["owner"] for row in rows}


async def test_the_owner_migrates_an_empty_database_and_what_the_next_migration_makes_can_be_read(
    empty_url: str,
) -> None:
    await make_roles(empty_url)
    settings = database_settings(as_role(empty_url, "owner"))
    await migrate(settings, sql.migrations())
    statements = "CREATE TABLE next_table (x int); CREATE SEQUENCE next_sequence;"
    await migrate(settings, [*sql.migrations(), Migration(len(sql.migrations()) + 1, "next", statements)])
    admin = await asyncpg.connect(empty_url)
    assert await owners(admin) == {"export_runs_owner"}
    await admin.close()
    for role in ("worker", "auditor", "operator"):
        connection = await asyncpg.connect(as_role(empty_url, role))
        await connection.execute("SELECT * FROM next_table")
        assert await refused(connection, "INSERT INTO next_table VALUES (1)")
        assert await refused(connection, "SELECT nextval('next_sequence')") == (role != "worker")
        await connection.close()


async def test_a_database_that_was_there_before_gets_its_owner_and_its_grants(empty_url: str) -> None:
    await migrate(database_settings(empty_url), sql.migrations())
    admin = await asyncpg.connect(empty_url)
    assert "export_runs_owner" not in await owners(admin)
    for _ in range(2):
        await make_roles(empty_url)
        assert await owners(admin) == {"export_runs_owner"}
    await admin.execute("GRANT ALL ON export_run_events TO export_runs_worker")
    owner = await asyncpg.connect(as_role(empty_url, "owner"))
    await migrate(database_settings(as_role(empty_url, "owner")), sql.migrations())
    assert await owner.fetch(sql.query("list_changes_of_grants")) == []
    await grant(owner)
    await owner.close()
    worker = await asyncpg.connect(as_role(empty_url, "worker"))
    assert [statement for statement in REFUSED_TO_ALL if not await refused(worker, statement)] == []
    await worker.execute(LOG_ROW)
    await worker.close()
    await admin.close()


async def test_who_owns_nothing_changes_no_grants(database_url: str) -> None:
    """A worker's role may run `migrate` behind a pooler, to have its settings."""
    settings = database_settings(as_role(database_url, "worker")).model_copy(update={"transaction_pooling": True})
    assert await migrate(settings, sql.migrations()) == []
    admin = await asyncpg.connect(database_url)
    await admin.execute("ALTER ROLE export_runs_worker IN DATABASE " + database_url.rpartition("/")[2] + " RESET ALL")
    await admin.close()
