-- Note which exported claims a run may export again; returns those that were not noted before.
INSERT INTO claim_overrides (run_id, org_id, reason, approved_by, claim_id, earlier_run_id)
SELECT $1::uuid, $2::text, $3::text, $4::text, claim_id, earlier_run_id
FROM unnest($5::text[], $6::uuid[]) AS overridden (claim_id, earlier_run_id)
ON CONFLICT DO NOTHING
RETURNING claim_id
