-- The runs that carried a claim, newest first.
SELECT run.*, claim.outcome AS claim_outcome
FROM export_run_claims AS claim
JOIN export_runs AS run USING (run_id)
WHERE claim.claim_id = $1 AND ($2::text IS NULL OR claim.org_id = $2)
ORDER BY run.created_at DESC, run.run_id DESC
LIMIT $3::bigint
