"""Every query fits the migrated schema. The parameters and the columns of each are listed here."""

import re
from pathlib import Path

import asyncpg
import pytest

import sql
from handlers import query_arguments as arguments
from sql.connection import Connection
from worker.database.errors import Failure, meaning_of

RUN = (
    "run_id uuid, org_id text, created_at timestamptz, created_event_id uuid, created_digest bytea, "
    "triggered_by text, format text, target_system text, period_start date, period_end date, "
    "retry_of_run_id uuid, override_reason text, override_approved_by text, status run_status, "
    "finished_at timestamptz, finished_event_id uuid, finished_digest bytea, error_code text, "
    "error_detail text, artifact_key text, artifact_sha256 text, artifact_size_bytes int8, "
    "external_ack_id text, claim_count int4, skipped_count int4, deleted_at timestamptz, deleted_by text, "
    "deleted_reason text, has_conflict bool, purged_at timestamptz, trigger text, scope text, "
    "totals jsonb, totals_disagree bool, imported bool, reversed_count int4"
)

DOUBLE_EXPORT = (
    "org_id text, claim_id text, detected_at timestamptz, last_joined_at timestamptz, resolved_at timestamptz, "
    "resolved_by text, note text"
)

LOG_ENTRY = "event_id uuid, event_type text, origin text, run_id uuid, occurred_at timestamptz, received_at timestamptz"

HISTORY_FILTER = "text, timestamptz, timestamptz, text, text, text, text, text, text, text, bool, date, date, bool"

# For each query: the types of its parameters, and its columns.
QUERIES = {
    "count_history": (f"{HISTORY_FILTER}, int8", "count int8"),
    "create_migrations_table": ("", ""),
    "delete_run": ("uuid, timestamptz, text, text", ""),
    "find_reused_event_ids": (
        "uuid[], text[], text",
        "event_id uuid, event_type text, logged_payload text, payload text",
    ),
    "insert_claim_details": ("text[], text[], uuid[], uuid[], text[], text[], text[], text[], text[]", ""),
    "purge_claim_details": ("uuid", ""),
    "find_runs_by_claim": ("text, text, int8", f"{RUN}, claim_outcome claim_outcome"),
    "list_claims_freed_by_purge": ("uuid", "claim_id text"),
    "explain_claim": (
        "text, text, int8",
        "kind text, run_id uuid, event_id uuid, time timestamptz, outcome text, reason text, has_conflict bool, "
        "earlier_run_id uuid, approved_by text, fencing_token int8, has_expired bool, reversed_by text, "
        "external_reversal_id text",
    ),
    "get_log_payload": ("uuid", "payload text"),
    "list_ends_of_run": ("uuid, text, int8", LOG_ENTRY),
    "list_log_of_claim": ("text, text, uuid, int8", LOG_ENTRY),
    "find_runs_of_period": (
        "text, date, date, text, text, timestamptz, int8",
        f"{RUN}, overlap_start date, overlap_end date",
    ),
    "get_last_export": ("text, text, text, timestamptz", RUN),
    "find_logged_events": ("uuid[]", "event_id uuid"),
    "find_other_exports": ("text[], text[], uuid[], int8", "org_id text, claim_id text, run_id uuid"),
    "get_run_for_update": ("uuid", RUN),
    "get_run_with_claims": (
        "uuid, text, int8",
        f"{RUN}, bytes int8, claim_ids text[], skipped_claim_ids text[], skip_reasons text[], skip_codes text[]",
    ),
    "list_run_claims": (
        "uuid, text, text, text, int8, int8",
        "claim_id text, outcome text, skip_reason text, voucher_id text, voucher_url text, amount numeric, "
        "currency text, skip_code text, overrides text, reversed_at timestamptz, reversal_reason text, "
        "reversed_by text, reversal_approved_by text, external_reversal_id text, available int8",
    ),
    "list_reversals_of_run": (
        "uuid, text, int8",
        "event_id uuid, reversed_at timestamptz, reason text, reversed_by text, approved_by text, "
        "external_reversal_id text, claim_count int8",
    ),
    "insert_events": (
        "text, uuid[], text[], uuid[], text[], timestamptz[], text[], text[], text[]",
        "event_id uuid",
    ),
    "list_applied_migrations": ("", "version int4, name text, sha256 text"),
    "list_history": (
        f"{HISTORY_FILTER}, timestamptz, uuid, int8, int8",
        RUN,
    ),
    "drop_invalid_index": ("text", "format text"),
    "list_blockers": (
        "int4",
        "pid int4, application_name text, backend_type text, state text, transaction_age_s float8",
    ),
    "is_restored_copy": ("", "is_copy bool"),
    "note_restore": ("int4", "grants_held_until timestamptz"),
    "raise_fencing_tokens": ("", "setval int8"),
    "list_settings": ("text[]", "name text, setting text"),
    "set_for_role": ("text, text", "format text"),
    "set_lock_timeout": ("text", "set_config text"),
    "try_lock_migrations": ("", "pg_try_advisory_lock bool"),
    "find_exports_and_leases": (
        "text[], text[], int8",
        "org_id text, claim_id text, run_id uuid, status run_status, finished_at timestamptz, "
        "expires_at timestamptz, fencing_token int8, has_expired bool, is_reversed bool",
    ),
    "free_leases": ("uuid[], text[], text[]", "count int8"),
    "get_double_export_for_update": ("text, text", f"{DOUBLE_EXPORT}, now timestamptz"),
    "get_run": ("uuid", RUN),
    "get_time": ("", "clock_timestamp timestamptz"),
    "insert_overrides": ("uuid, text, text, text, timestamptz, text[], uuid[]", "claim_id text"),
    "list_double_exports": ("text, text, bool, int8", DOUBLE_EXPORT),
    "list_overrides": (
        "uuid, text",
        "claim_id text, earlier_run_id uuid, reason text, approved_by text, granted_at timestamptz",
    ),
    "count_backlog": ("int4, int8", "unpublished_alerts int8, unresolved_double_exports int8, stale_runs int8"),
    "get_activity": ("", "size_bytes int8, oldest_transaction_at timestamptz"),
    "list_stale_runs": ("int4, timestamptz, uuid, text, int8", RUN),
    "lock_tables_as_writers_do": ("", ""),
    "is_read_only": ("", "?column? bool"),
    "lock_runs": ("uuid[]", "count int8"),
    "lock_runs_and_claims": ("uuid[], text[], text[]", "case int8"),
    "find_double_exports": (
        "uuid[], text[], text[], int8[], int8",
        "run_id uuid, org_id text, claim_ids text, earlier_run_ids uuid[]",
    ),
    "list_exports_of_run": (
        "uuid, text, text[]",
        "claim_id text, is_reversed bool, of_whole_run bool, reason text, reversed_by text, approved_by text, "
        "external_reversal_id text",
    ),
    "insert_reversal": ("text, uuid, uuid, bool, timestamptz, text, text, text, text, text[]", ""),
    "apply_reversals": ("uuid, text", ""),
    "insert_reversal_grants": ("uuid, text, timestamptz, text[], uuid[]", "claim_id text"),
    "find_runs_of_double_exports": (
        "text, text, int8, int4",
        "claim_id text, run_count int8, run_ids uuid[], statuses text[], finish_times timestamptz[], "
        "reversal_times timestamptz[], ended_at timestamptz, repeated_in_run_ids uuid[]",
    ),
    "record_double_exports": ("text[], text[], timestamptz[]", ""),
    "record_repeated_claims": ("text[], text[], uuid[]", "org_id text, claim_id text, run_id uuid"),
    "resolve_double_export": ("text, text, timestamptz, text, text", DOUBLE_EXPORT),
    "withdraw_overrides": ("uuid, text, text[]", "claim_id text"),
    "insert_alerts": (
        "uuid[], text[], uuid[], int4[], text[], text[], text[], text[], text[], timestamptz",
        "",
    ),
    "list_alert_organisations": ("text, int4", "org_id text, has_due_alert bool"),
    "take_alerts": (
        "text[], int8, float8",
        "org_id text, event_id uuid, occurred_at timestamptz, run_id uuid, claim_count int4, claim_ids text[], "
        "earlier_run_ids uuid[], found_by text, attempts int4, next_attempt_at timestamptz, traceparent text, "
        "tracestate text",
    ),
    "remove_alerts": ("text[], uuid[]", ""),
    "postpone_alerts": ("text[], uuid[], float8[]", ""),
    "write_leases": ("text, uuid, text, text, int8, int4", "fencing_token int8, expires_at timestamptz"),
    "merge_claims": ("uuid[], text[], text[], text[], text[]", ""),
    "merge_created": (
        "uuid[], text[], timestamptz[], uuid[], bytea[], text[], text[], text[], date[], date[], uuid[], "
        "text[], text[], text[], text[], bool[]",
        "run_id uuid, has_conflict bool",
    ),
    "merge_finished": (
        "uuid[], text[], text[], timestamptz[], uuid[], bytea[], text[], text[], text[], text[], int8[], "
        "text[], int4[], int4[], text[], bool[], bool[], bool[], uuid[], text[], text[], text[], text[]",
        "run_id uuid, org_id text, has_conflict bool, has_former_digest bool, had_claims bool, had_leases bool",
    ),
    "renew_digest": ("uuid, bytea, bool", ""),
    "purge_claims": ("uuid", ""),
    "purge_run": ("uuid, timestamptz", ""),
    "unpurge_run": ("uuid", "org_id text"),
    "find_purged_runs": ("uuid[]", "run_id uuid"),
    "get_live_lease_end": ("uuid, text", "max timestamptz"),
    "get_run_state": ("uuid", "org_id text, status run_status, deleted_at timestamptz, purged_at timestamptz"),
    "list_claims_of_run": ("uuid", "claim_id text"),
    "list_logged_writes": ("uuid, text, text", "event_id uuid"),
    "list_log_page": (
        "text, int8, text, int8, int8",
        "position int8, event_id uuid, event_type text, origin text, run_id uuid, org_id text, "
        "occurred_at timestamptz, received_at timestamptz, payload text",
    ),
    "list_log_organisations": ("text, int4", "org_id text, position int8, received_at timestamptz"),
    "count_log": ("text", "entry_count int8"),
    "get_schema": ("", "current_schema text"),
    "list_changes_of_grants": ("", "statement text"),
    "list_tables": ("text, text[]", "name text"),
    "make_temporary_table": ("text, text", "format text"),
    "lock_tables": ("text, text[], text", "format text"),
    "get_last_log_position": ("", "last_value int8"),
    "list_obstacles_to_rebuild": ("text, text[]", "obstacle text"),
    "measure_tables": ("text, text[]", "bytes int8"),
    "make_rebuilt_schema": ("", ""),
    "look_in_rebuilt_schema_first": ("", "set_config text"),
    "make_rebuilt_table": ("text, text", "statement text"),
    "vacuum_rebuilt_tables": ("text[]", "?column? text"),
    "exchange_tables": ("text, text[]", "statement text"),
    "drop_rebuilt_schema": ("text[]", "statement text"),
    "list_lock_holders": (
        "text, text[], float8",
        "pid int4, application_name text, backend_type text, state text, transaction_age_s float8",
    ),
    "compare_table": (
        "text, text, text[], int4",
        "key_columns text[], found_by text, comparison text, count_of_rows text, runs_unknown text",
    ),
    "remove_overrides": ("uuid, text, text[]", ""),
    "list_log_of_run": (
        "uuid, text, int8",
        "event_id uuid, event_type text, origin text, run_id uuid, org_id text, occurred_at timestamptz, payload text",
    ),
    "recount_claims": ("uuid[]", ""),
    "record_migration": ("int4, text, text", ""),
    "allow_sequential_scans": ("", "set_config text, set_config text"),
    "analyze_replayed_tables": ("text[]", "statement text"),
    "list_exports_of_organisation": (
        "text, timestamptz, timestamptz",
        "claim_id text, is_of_period bool, amounts text[]",
    ),
    "list_log_writers": ("", "writer text"),
    "report_amounts_by_time": (
        "timestamptz, timestamptz, text, text",
        "day date, currency text, amount numeric, claims int8",
    ),
    "report_by_system": ("timestamptz, timestamptz", "target_system text, outcome text, claims int8"),
    "report_by_time": ("timestamptz, timestamptz, text, text", "day date, outcome text, claims int8"),
    "report_claims": (
        "timestamptz, timestamptz",
        "org_id text, run_id uuid, claim_id text, outcome text, amount numeric, currency text, voucher_id "
        "text, voucher_url text, skip_reason text, skip_code text",
    ),
    "report_control": (
        "timestamptz, timestamptz",
        "runs int8, claims_carried int8, claims_skipped int8, claims_reversed int8, runs_that_differ int8",
    ),
    "report_double_export_runs": (
        "timestamptz, timestamptz",
        "org_id text, claim_id text, run_id uuid, created_at timestamptz, finished_at timestamptz, outcome "
        "text, amount numeric, currency text, is_repeated_in_run bool, has_override bool",
    ),
    "report_double_exports": (
        "timestamptz, timestamptz",
        "org_id text, claim_id text, state text, runs int8, runs_left int8, detected_at timestamptz, "
        "last_joined_at timestamptz, resolved_at timestamptz, resolved_by text, note text",
    ),
    "report_overrides": (
        "timestamptz, timestamptz",
        "org_id text, run_id uuid, claim_id text, earlier_run_id uuid, approved_by text, reason text, "
        "granted_at timestamptz",
    ),
    "report_remarks": (
        "timestamptz, timestamptz, timestamptz, int4, int8",
        "org_id text, run_id uuid, created_at timestamptz, remark text, time timestamptz, by_whom text, reason text",
    ),
    "report_reversals": (
        "timestamptz, timestamptz",
        "org_id text, run_id uuid, claim_id text, reversed_at timestamptz, of_whole_run bool, reversed_by "
        "text, approved_by text, reason text, external_reversal_id text",
    ),
    "report_runs": (
        "timestamptz, timestamptz",
        "org_id text, run_id uuid, created_at timestamptz, triggered_by text, trigger text, format text, "
        "target_system text, scope text, period_start date, period_end date, retry_of_run_id uuid, status "
        "text, finished_at timestamptz, claim_count int4, skipped_count int4, reversed_count int4, error_code "
        "text, error_detail text, external_ack_id text, artifact_key text, artifact_sha256 text, "
        "artifact_size_bytes int8, imported bool, has_conflict bool, totals_disagree bool, deleted_at "
        "timestamptz, purged_at timestamptz",
    ),
    "report_span": ("timestamptz, timestamptz", "first_at timestamptz, last_at timestamptz"),
    "report_totals": (
        "timestamptz, timestamptz",
        "org_id text, run_id uuid, currency text, told_claims int8, told_amount numeric, exported_claims "
        "int8, exported_amount numeric, reversed_claims int8, reversed_amount numeric",
    ),
}


async def test_every_query_has_the_parameters_and_columns_that_are_listed_here(connection: Connection) -> None:
    found = {}
    for name in sql.query_names():
        statement = await connection.prepare(sql.query(name))
        found[name] = (
            ", ".join(each.name for each in statement.get_parameters()),
            ", ".join(f"{each.name} {each.type.name}" for each in statement.get_attributes()),
        )
    assert found == QUERIES


# For each query whose parameters could be swapped: their names, in the order in which the handlers pass them.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "count_history": (*arguments.HistoryFilter._fields, "limit"),
    "list_run_claims": arguments.RunClaimsSearch._fields,
    "delete_run": arguments.RunDeletion._fields,
    "find_exports_and_leases": (*arguments.OrganisationClaims._fields, "limit"),
    "find_reused_event_ids": (*arguments.LoggedPayload._fields, "event_type"),
    "free_leases": (*arguments.RunKey._fields, "claim_ids"),
    "insert_claim_details": arguments.ClaimDetailsRow._fields,
    "insert_events": ("event_type", *arguments.LogEntry._fields, *arguments.OrganisationClaims._fields),
    "insert_overrides": (*arguments.OverrideGrant._fields, *arguments.OverriddenClaim._fields),
    "list_log_of_claim": arguments.ClaimLogPage._fields,
    "list_double_exports": arguments.DoubleExportsPage._fields,
    "compare_table": ("schema", "name", "clock_columns", "tolerance_s"),
    "list_log_page": (
        "above_org_id",
        "above_position",
        "last_org_id",
        "entries_max",
        "stored_bytes_max",
    ),
    "list_history": (*arguments.HistoryFilter._fields, *arguments.HistoryPage._fields),
    "list_stale_runs": arguments.StaleRunsPage._fields,
    "report_remarks": ("start", "end", "log_time", "stale_s", "position"),
    "report_by_time": ("start", "end", "step", "time_zone"),
    "report_amounts_by_time": ("start", "end", "step", "time_zone"),
    "lock_runs_and_claims": ("run_id", *arguments.OrganisationClaims._fields),
    "merge_claims": arguments.ClaimGroup._fields,
    "merge_created": arguments.CreatedRow._fields,
    "merge_finished": (*arguments.FinishedRow._fields, *arguments.ClaimGroup._fields),
    "record_double_exports": arguments.JoinedClaims._fields,
    "find_double_exports": (*arguments.DoubleExportsSearch._fields, "limit"),
    "insert_reversal": (*arguments.Reversal._fields, "claim_ids"),
    "insert_reversal_grants": (*arguments.ReversalGrant._fields, *arguments.ReversedClaim._fields),
    "find_other_exports": (*arguments.OrganisationClaims._fields, "left_out", "limit"),
    "find_runs_of_period": arguments.PeriodSearch._fields,
    "get_last_export": arguments.LastExportSearch._fields,
    "find_runs_of_double_exports": arguments.DoubleExportRunsSearch._fields,
    "insert_alerts": (*arguments.NewAlert._fields, "occurred_at"),
    "take_alerts": ("org_id", "limit", "taken_s"),
    "remove_alerts": arguments.AlertKey._fields,
    "postpone_alerts": arguments.PostponedAlert._fields,
    "record_repeated_claims": arguments.RepeatedClaim._fields,
    "resolve_double_export": arguments.Resolution._fields,
    "write_leases": arguments.LeaseWrite._fields,
}

PARAMETERS_UNNAMED_MAX = 3


def parameter_names(text: str) -> list[str]:
    """The names that a query gives its parameters, in their order.

    An array has the name of the column that `unnest` makes of it. A value has the name of the column that it is
    compared with or assigned to. All others are named in a comment: `-- $1 org_id, $2 limit`.
    """
    names: dict[int, str] = {}

    def name(number: str, parameter: str) -> None:
        assert names.setdefault(int(number), parameter) == parameter, f"${number} has two names"

    for parameters, columns in re.findall(r"unnest\(\s*(\$[^()]*?)\s*\)\s+AS \w+ \(([^()]*)\)", text):
        for number, column in zip(re.findall(r"\$(\d+)", parameters), columns.split(","), strict=True):
            name(number, column.strip())
    for comment in re.findall(r"^-- (\$\d.*)$", text, re.MULTILINE):
        for number, parameter in re.findall(r"\$(\d+) (\w+)", comment):
            name(number, parameter)
    statement = re.sub(r"--.*", "", text)
    for column, number in re.findall(r"(?<!\.)\b(\w+) = \$(\d+)", statement):
        name(number, column)
    numbers = {int(number) for number in re.findall(r"\$(\d+)", statement)}
    assert set(names) <= numbers
    return [names.get(number, "?") for number in sorted(numbers)]


def takes_rows(text: str) -> bool:
    """Whether a query takes rows, as several arrays."""
    return any("," in columns for columns in re.findall(r"\$\d+::\w+\[\]\s*\)\s+AS \w+ \(([^()]*)\)", text))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_handlers_pass_the_parameters_that_the_query_names(name: str) -> None:
    assert tuple(parameter_names(sql.query(name))) == ARGUMENTS[name]


def test_every_query_with_many_parameters_names_them() -> None:
    queries = {name: sql.query(name) for name in sql.query_names()}
    many = {
        name
        for name, text in queries.items()
        if len(parameter_names(text)) > PARAMETERS_UNNAMED_MAX or takes_rows(text)
    }
    assert many - set(ARGUMENTS) == set()


def test_rows_that_are_inserted_without_column_names_have_the_order_of_the_table() -> None:
    text = sql.query("merge_created")
    [columns] = re.findall(r"INSERT INTO export_runs AS run \(([^()]*)\)\nSELECT \*", text)
    assert tuple(column.strip() for column in columns.split(",")) == arguments.CreatedRow._fields


def test_a_parameter_in_another_place_is_noticed() -> None:
    text = sql.query("merge_created")
    changed = text.replace("triggered_by, format, target_system,", "format, triggered_by, target_system,")
    assert parameter_names(changed) != parameter_names(text)
    with pytest.raises(AssertionError, match=r"\$2 has two names"):
        parameter_names("-- $1 a, $2 b\nUPDATE t SET c = $2 WHERE a = $1")


ADVISORY_LOCKS = Path(sql.__file__).parent / "advisory_locks.md"


def test_every_advisory_lock_is_in_the_table() -> None:
    text = ADVISORY_LOCKS.read_text(encoding="utf-8")
    table = re.findall(r"^\| `([^|]*(?:\\\|[^|]*)*)` \|[^|]*\| (.*) \|$", text, re.MULTILINE)
    listed = {
        (number.replace("\\|", "|"), query) for number, queries in table for query in re.findall(r"`(\w+)`", queries)
    }
    found = set()
    for name in sql.query_names():
        statement = re.sub(r"--.*", "", sql.query(name))
        for number in re.findall(r"pg_\w*advisory\w*\((key|[^()]*|hashtextextended\([^()]*\))\)", statement):
            if number != "key":
                found.add((number, name))
        found |= {(key, name) for key in re.findall(r"SELECT DISTINCT (.*) AS key", statement)}
    assert found == listed


def test_an_unknown_query_is_not_found() -> None:
    with pytest.raises(KeyError):
        sql.query("no_such_query")


# For each table: a row that it takes, as SQL.
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

# Values that a column refuses, so that no bug can store them.
IMPOSSIBLE = [
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


async def test_the_database_refuses_impossible_values(connection: Connection) -> None:
    async def insert(table: str, row: dict[str, str]) -> None:
        names, values = ", ".join(row), ", ".join(row.values())
        await connection.execute(" ".join(("INSERT INTO", table, "(", names, ") VALUES (", values, ")")))

    for table, row in ROWS.items():
        await insert(table, row)
    meanings: dict[tuple[str, str, str], Failure | None] = dict.fromkeys(IMPOSSIBLE)
    for table, column, value in IMPOSSIBLE:
        try:
            await insert(table, ROWS[table] | {column: value})
        except asyncpg.PostgresError as error:
            meanings[table, column, value] = meaning_of(error)
    assert meanings == dict.fromkeys(IMPOSSIBLE, Failure.UNSTORABLE)
