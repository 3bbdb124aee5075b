-- Note the claims that a run says it exported twice.
INSERT INTO double_exports (org_id, claim_id, first_run_id, second_run_id, found_by)
SELECT org_id, claim_id, run_id, run_id, 'repeated-in-run'
FROM unnest($1::text[], $2::text[], $3::uuid[]) AS repeated (org_id, claim_id, run_id)
ORDER BY claim_id, org_id, run_id
ON CONFLICT DO NOTHING
