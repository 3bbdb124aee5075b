-- $1 runs of one organisation.
INSERT INTO export_runs (run_id, org_id, created_at, created_event_id, created_digest, triggered_by, format)
SELECT
    md5('history ' || number)::uuid,
    'org-history',
    timestamptz '2025-01-01 00:00:00Z' + number * interval '1 minute',
    md5('history created ' || number)::uuid,
    sha256(convert_to('history created ' || number, 'UTF8')),
    'alice',
    'csv'
FROM generate_series(1, $1::bigint) AS number
