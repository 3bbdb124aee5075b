"""A database so full that a wrong plan shows, and the plans that PostgreSQL makes there."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg

import sql
from sql.connection import Connection
from tests.conftest import database_settings, with_database
from worker.database.migrations import migrate

# Run n has the id uuid(n), starts n minutes after START, and has the claims 10 n to 10 n + 9. The first 15,000 runs
# belong to the largest organisation, the others to fifty more. Claim "1" has been exported by 10,000 organisations.
START = datetime(2026, 1, 1, tzinfo=UTC)
RUNS_OF_LARGEST = 15_000
SEED = """
INSERT INTO export_runs (
    run_id, org_id, created_at, created_event_id, created_digest, triggered_by, format, target_system, period_start,
    period_end, status, finished_at, finished_event_id, finished_digest, claim_count
)
SELECT
    lpad(to_hex(n), 32, '0')::uuid,
    CASE WHEN n <= 15000 THEN 'largest' ELSE 'org-' || n % 50 END,
    '2026-01-01Z'::timestamptz + n * interval '1 minute', gen_random_uuid(), '', 'alice', 'csv', 'ledger',
    date '2020-01-01' + n / 10, date '2020-01-30' + n / 10,
    'completed', '2026-01-02Z'::timestamptz + n * interval '1 minute', gen_random_uuid(), '', 10
FROM generate_series(1, 20000) AS n;

INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)
SELECT
    'claim-' || number, org_id, run_id,
    CASE WHEN number % 100 = 0 THEN 'attempted' ELSE 'exported' END::claim_outcome
FROM generate_series(10, 200009) AS number
JOIN export_runs ON run_id = lpad(to_hex(number / 10), 32, '0')::uuid;

INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)
SELECT '1', 'crowd-' || n, lpad(to_hex(n), 32, '0')::uuid, 'exported' FROM generate_series(1, 10000) AS n;
INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)
VALUES ('1', 'largest', lpad(to_hex(1), 32, '0')::uuid, 'exported');

INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)
SELECT run_id, 'run-created', 'event', run_id, org_id, created_at, '{}' FROM export_runs;

INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)
SELECT
    gen_random_uuid(), 'claims-taken', 'request', run_id, org_id, created_at,
    json_build_object('overridden', json_build_array(json_build_object('claimId', 'claim-' || row_number() OVER ())))
FROM export_runs;

INSERT INTO claim_leases (claim_id, org_id, run_id, expires_at, fencing_token)
SELECT claim_id, org_id, run_id, now(), 1 FROM export_run_claims WHERE claim_id LIKE '%7' AND claim_id <> '1';

INSERT INTO claim_overrides (run_id, claim_id, org_id, earlier_run_id, reason, approved_by)
SELECT run_id, claim_id, org_id, run_id, 'a test', 'bob' FROM claim_leases;

INSERT INTO double_exported_claims (org_id, claim_id, detected_at, last_joined_at, resolved_at, resolved_by, note)
SELECT
    org_id, claim_id, now(), now(), CASE WHEN claim_id LIKE '%17' THEN now() END,
    CASE WHEN claim_id LIKE '%17' THEN 'bob' END, CASE WHEN claim_id LIKE '%17' THEN 'a test' END
FROM claim_leases;
INSERT INTO repeated_claims (claim_id, org_id, run_id) SELECT claim_id, org_id, run_id FROM claim_leases;

INSERT INTO claim_details (claim_id, org_id, run_id, event_id, amount, currency, skip_code)
SELECT claim_id, org_id, run_id, finished_event_id, 12.5, 'EUR', 'LATE'
FROM export_run_claims JOIN export_runs USING (run_id, org_id) WHERE claim_id LIKE '%7';

INSERT INTO export_reversals (
    org_id, event_id, run_id, of_whole_run, reversed_at, reason, reversed_by, approved_by
)
SELECT org_id, run_id, run_id, true, now(), 'a test', 'bob', 'carol' FROM export_runs;
INSERT INTO claim_reversals (claim_id, org_id, run_id, event_id)
SELECT claim_id, org_id, run_id, run_id FROM claim_leases;
INSERT INTO reversal_grants (claim_id, org_id, run_id, reversed_run_id, granted_at)
SELECT claim_id, org_id, run_id, run_id, now() FROM claim_leases;

INSERT INTO alerts (
    event_id, org_id, run_id, claim_count, claim_ids, earlier_run_ids, found_by, occurred_at, next_attempt_at
)
SELECT gen_random_uuid(), org_id, run_id, 1, ARRAY[claim_id], '{}', 'repeated-in-run', now(), now() FROM claim_leases;
"""

Plan = dict[str, Any]
Arguments = list[Any]


def loaded_database(server_url: str) -> Iterator[str]:
    """Make and fill a database on a server, and drop it at the end."""
    name = f"export_runs_test_{uuid4().hex}"
    url = with_database(server_url, name)

    async def load() -> None:
        admin = await asyncpg.connect(server_url)
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        await migrate(database_settings(url), sql.migrations())
        connection = await asyncpg.connect(url)
        await connection.execute(SEED)
        await connection.execute("VACUUM (ANALYZE)")
        await connection.close()

    async def drop() -> None:
        admin = await asyncpg.connect(server_url)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()

    asyncio.run(load())
    yield url
    asyncio.run(drop())


def literal(value: object) -> str:
    """A value as an argument of EXECUTE."""
    if value is None:
        return "NULL"
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, list):
        return literal(
            "{" + ",".join('"' + str(each).replace("\\", "\\\\").replace('"', '\\"') + '"' for each in value) + "}"
        )
    return "'" + str(value).replace("'", "''") + "'"


async def explain(connection: Connection, name: str, arguments: Arguments, *options: str) -> Plan:
    """The plan of PostgreSQL for a query, as a tree."""
    await connection.execute(f"PREPARE explained AS {sql.query(name)}")
    call = f"EXECUTE explained ({', '.join(map(literal, arguments))})"
    [plan] = json.loads(await connection.fetchval(f"EXPLAIN ({', '.join([*options, 'FORMAT JSON'])}) {call}"))
    await connection.execute("DEALLOCATE explained")
    root: Plan = plan["Plan"]
    return root


def nodes(plan: Plan) -> Iterator[Plan]:
    """A plan and all plans inside it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
