-- $4 claims for each run from $1 to $2 - 1 of $3 organisations.
INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome)
SELECT
    'claim-' || lpad((number * $4::bigint + position)::text, 12, '0'),
    'org-' || lpad((number % $3::bigint)::text, 4, '0'),
    md5('run ' || number)::uuid,
    'exported'
FROM generate_series($1::bigint, $2::bigint - 1) AS number, generate_series(0, $4::bigint - 1) AS position
