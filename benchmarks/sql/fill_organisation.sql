-- $2 runs of organisation $1, a hundred for each month from the newest back, each completed, with $3 claims and its two
-- events in the log.
WITH run AS (
    INSERT INTO export_runs (
        run_id, org_id, created_at, created_event_id, created_digest, triggered_by, format, target_system, period_start,
        period_end, status, finished_at, finished_event_id, finished_digest, external_ack_id, claim_count
    )
    SELECT
        md5($1 || ' run ' || number)::uuid,
        $1::text,
        timestamptz '2025-01-01 00:00:00Z' - number * interval '5 hours',
        md5($1 || ' created ' || number)::uuid,
        sha256(convert_to('created ' || number, 'UTF8')),
        'alice',
        'csv',
        'ledger',
        date '2024-12-01' - number / 100 * interval '1 month',
        date '2024-12-28' - number / 100 * interval '1 month',
        'completed',
        timestamptz '2025-01-01 00:00:30Z' - number * interval '5 hours',
        md5($1 || ' finished ' || number)::uuid,
        sha256(convert_to('finished ' || number, 'UTF8')),
        'ledger-' || number,
        $3::integer
    FROM generate_series(0, $2::bigint - 1) AS number
    RETURNING *
), claim AS (
    INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)
    SELECT external_ack_id || '-claim-' || position, org_id, run_id, 'exported'
    FROM run, generate_series(1, $3) AS position
    RETURNING claim_id, run_id
)
INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)
SELECT
    created_event_id, 'run-created', 'event', run_id, org_id, created_at,
    json_build_object(
        'eventId', created_event_id, 'schemaVersion', 1, 'occurredAt', created_at, 'runId', run_id, 'orgId', org_id,
        'triggeredBy', triggered_by, 'format', format
    )
FROM run
UNION ALL
SELECT
    finished_event_id, 'run-finished', 'event', run_id, org_id, finished_at,
    json_build_object(
        'eventId', finished_event_id, 'schemaVersion', 1, 'occurredAt', finished_at, 'runId', run_id, 'orgId', org_id,
        'status', status, 'claimIds', (SELECT array_agg(claim_id) FROM claim WHERE claim.run_id = run.run_id)
    )
FROM run
