-- Record the claims that runs named twice; returns those that were not recorded before.
INSERT INTO repeated_claims (org_id, claim_id, run_id)
SELECT org_id, claim_id, run_id
FROM unnest($1::text[], $2::text[], $3::uuid[]) AS repeated (org_id, claim_id, run_id)
ORDER BY claim_id COLLATE "C", org_id COLLATE "C", run_id
ON CONFLICT DO NOTHING
RETURNING org_id, claim_id, run_id
