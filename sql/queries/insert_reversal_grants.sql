-- Record which claims a run was granted after an export of them had been taken back; returns those that were not
-- recorded before.
-- $1 run_id, $2 org_id, $3 granted_at
INSERT INTO reversal_grants (run_id, org_id, granted_at, claim_id, reversed_run_id)
SELECT $1::uuid, $2::text, $3::timestamptz, claim_id, reversed_run_id
FROM unnest($4::text[], $5::uuid[]) AS granted (claim_id, reversed_run_id)
ON CONFLICT DO NOTHING
RETURNING claim_id
