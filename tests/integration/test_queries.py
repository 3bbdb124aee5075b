"""Every query fits the migrated schema; what it takes and what it gives is written down here once."""

import asyncpg
import pytest

import sql
from handlers.connection import Connection
from worker.database import Failure, meaning_of

RUN = (
    "run_id uuid, org_id text, created_at timestamptz, created_event_id uuid, created_digest bytea, "
    "triggered_by text, format text, target_system text, period_start date, period_end date, "
    "retry_of_run_id uuid, override_reason text, override_approved_by text, status run_status, "
    "finished_at timestamptz, finished_event_id uuid, finished_digest bytea, error_code text, "
    "error_detail text, artifact_key text, artifact_sha256 text, artifact_size_bytes int8, "
    "external_ack_id text, claim_count int4, skipped_count int4, deleted_at timestamptz, deleted_by text, "
    "deleted_reason text, has_conflict bool"
)

DOUBLE_EXPORT = (
    "id int8, event_id uuid, org_id text, claim_id text, first_run_id uuid, second_run_id uuid, found_by text, "
    "detected_at timestamptz, published_at timestamptz, resolved_at timestamptz, resolved_by text, note text"
)

# The query, its parameters' types, its columns.
QUERIES = {
    "count_history": ("text, timestamptz, timestamptz, text, text, bool, int8", "count int8"),
    "create_migrations_table": ("", ""),
    "delete_run": ("uuid, timestamptz, text, text", ""),
    "find_reused_event_ids": (
        "uuid[], text[], text",
        "event_id uuid, event_type text, logged_payload text, payload text",
    ),
    "insert_claims": ("uuid[], text[], text[], text[], text[]", ""),
    "find_runs_by_claim": ("text, text, int8", f"{RUN}, claim_outcome claim_outcome"),
    "freed_by_purge": ("uuid", "claim_id text"),
    "get_run_for_update": ("uuid", RUN),
    "get_run_with_claims": (
        "uuid, text",
        f"{RUN}, claim_ids text[], skipped_claim_ids text[], skip_reasons text[]",
    ),
    "insert_events": ("uuid[], text, text, uuid[], text[], timestamptz[], text[]", "event_id uuid"),
    "list_applied_migrations": ("", "version int4, name text, sha256 text"),
    "list_history": (
        "text, timestamptz, uuid, timestamptz, timestamptz, text, text, bool, int8, int8",
        RUN,
    ),
    "lock_migrations": ("", "pg_advisory_xact_lock void"),
    "find_exports_and_leases": (
        "text[], text[]",
        "org_id text, claim_id text, run_id uuid, status run_status, finished_at timestamptz, "
        "expires_at timestamptz, fencing_token int8, expired bool",
    ),
    "free_leases": ("uuid[], text[], text[]", "count int8"),
    "get_double_export_for_update": ("int8", f"{DOUBLE_EXPORT}, now timestamptz"),
    "get_run": ("uuid", RUN),
    "get_time": ("", "clock_timestamp timestamptz"),
    "insert_overrides": ("uuid, text, text, text, text[], uuid[]", "claim_id text"),
    "list_double_exports": ("text, int8, bool, int8", DOUBLE_EXPORT),
    "list_overrides": (
        "uuid, text, int8",
        "claim_id text, earlier_run_id uuid, reason text, approved_by text, granted_at timestamptz",
    ),
    "list_stale_runs": ("int4, timestamptz, uuid, text, int8", RUN),
    "list_unpublished_alerts": ("int8", DOUBLE_EXPORT),
    "lock_alerts": ("", "pg_try_advisory_xact_lock bool"),
    "lock_all_claims": ("", "pg_advisory_xact_lock void"),
    "lock_runs": ("uuid[]", "count int8"),
    "lock_runs_and_claims": ("uuid[], text[], text[]", "case int8"),
    "mark_alerts": ("int8[], bool", ""),
    "record_double_exports": ("uuid[], text[], text[]", ""),
    "record_repeated_claims": ("text[], text[], uuid[]", ""),
    "resolve_double_export": ("int8, timestamptz, text, text", DOUBLE_EXPORT),
    "write_leases": ("text, uuid, text, text, int8, int4", "fencing_token int8, expires_at timestamptz"),
    "merge_claims": ("uuid[], text[], text[], text[], text[]", ""),
    "merge_created": (
        "uuid[], text[], timestamptz[], uuid[], bytea[], text[], text[], text[], date[], date[], uuid[], "
        "text[], text[]",
        "run_id uuid, has_conflict bool",
    ),
    "merge_finished": (
        "uuid[], text[], text[], timestamptz[], uuid[], bytea[], text[], text[], text[], text[], int8[], "
        "text[], int4[], int4[]",
        "run_id uuid, org_id text, has_conflict bool, had_claims bool, had_leases bool",
    ),
    "purge_claims": ("uuid", ""),
    "purge_run": ("uuid", ""),
    "recount_claims": ("uuid[]", ""),
    "record_migration": ("int4, text, text", ""),
}


async def test_every_query_takes_and_gives_what_is_written_down(connection: Connection) -> None:
    found = {}
    for name in sql.query_names():
        statement = await connection.prepare(sql.query(name))
        found[name] = (
            ", ".join(each.name for each in statement.get_parameters()),
            ", ".join(f"{each.name} {each.type.name}" for each in statement.get_attributes()),
        )
    assert found == QUERIES


def test_an_unknown_query_is_not_found() -> None:
    with pytest.raises(FileNotFoundError):
        sql.query("no_such_query")


# A row that each table takes, as SQL.
ROWS = {
    "export_run_events": {
        "event_id": "gen_random_uuid()",
        "event_type": "'run-created'",
        "origin": "'event'",
        "run_id": "gen_random_uuid()",
        "org_id": "'org-1'",
        "occurred_at": "now()",
        "payload": "'{}'",
    },
    "export_runs": {"run_id": "gen_random_uuid()", "org_id": "'org-1'", "created_at": "now()"},
    "export_run_claims": {
        "claim_id": "'c-1'",
        "org_id": "'org-1'",
        "run_id": "gen_random_uuid()",
        "outcome": "'exported'",
    },
}

# What it does not take in one column, whatever a bug may try.
REFUSED = [
    ("export_run_events", "event_type", "'run-paused'"),
    ("export_run_events", "origin", "'rumour'"),
    ("export_run_events", "payload", "'{'"),
    ("export_run_events", "org_id", "repeat('x', 201)"),
    ("export_runs", "org_id", "''"),
    ("export_runs", "format", "repeat('x', 201)"),
    ("export_runs", "error_detail", "repeat('x', 2001)"),
    ("export_runs", "artifact_size_bytes", "-1"),
    ("export_runs", "claim_count", "-1"),
    ("export_runs", "skipped_count", "-1"),
    ("export_runs", "status", "'completed'"),
    ("export_runs", "status", "'done'"),
    ("export_runs", "finished_at", "now()"),
    ("export_runs", "created_event_id", "gen_random_uuid()"),
    ("export_runs", "triggered_by", "'alice'"),
    ("export_run_claims", "claim_id", "repeat('x', 201)"),
    ("export_run_claims", "claim_id", "''"),
    ("export_run_claims", "outcome", "'lost'"),
    ("export_run_claims", "org_id", "NULL"),
]


async def test_the_database_refuses_what_no_state_can_be(connection: Connection) -> None:
    async def insert(table: str, row: dict[str, str]) -> None:
        names, values = ", ".join(row), ", ".join(row.values())
        await connection.execute(" ".join(("INSERT INTO", table, "(", names, ") VALUES (", values, ")")))

    for table, row in ROWS.items():
        await insert(table, row)
    found: dict[tuple[str, str, str], Failure | None] = dict.fromkeys(REFUSED)
    for table, column, value in REFUSED:
        try:
            await insert(table, ROWS[table] | {column: value})
        except asyncpg.PostgresError as error:
            found[table, column, value] = meaning_of(error)
    assert found == dict.fromkeys(REFUSED, Failure.UNSTORABLE)
