-- Runs $1 to $2 - 1 of $3 organisations, each completed, with $4 claims.
INSERT INTO export_runs (
    run_id, org_id, created_at, created_event_id, created_digest, triggered_by, format, status, finished_at,
    finished_event_id, finished_digest, claim_count
)
SELECT
    md5('run ' || number)::uuid,
    'org-' || lpad((number % $3::bigint)::text, 4, '0'),
    timestamptz '2025-01-01 00:00:00Z' + number * interval '1 minute',
    md5('created ' || number)::uuid,
    sha256(convert_to('created ' || number, 'UTF8')),
    'alice',
    'csv',
    'completed',
    timestamptz '2025-01-01 00:00:30Z' + number * interval '1 minute',
    md5('finished ' || number)::uuid,
    sha256(convert_to('finished ' || number, 'UTF8')),
    $4::integer
FROM generate_series($1::bigint, $2::bigint - 1) AS number
