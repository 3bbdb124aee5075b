SELECT claim.claim_id, claim.run_id, run.status, run.finished_at
FROM peer_claims AS claim
JOIN peer_runs AS run USING (run_id)
WHERE claim.claim_id = ANY ($2::text[]) AND claim.org_id = $1 AND claim.outcome = 'exported'
ORDER BY run.finished_at, run.run_id
