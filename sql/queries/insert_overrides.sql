-- Record which exported claims a run may export again; returns those that were not recorded before.
-- $1 run_id, $2 org_id, $3 reason, $4 approved_by, $5 granted_at
INSERT INTO claim_overrides (run_id, org_id, reason, approved_by, granted_at, claim_id, earlier_run_id)
SELECT $1::uuid, $2::text, $3::text, $4::text, $5::timestamptz, claim_id, earlier_run_id
FROM unnest($6::text[], $7::uuid[]) AS override (claim_id, earlier_run_id)
ON CONFLICT DO NOTHING
RETURNING claim_id
