SELECT claim.claim_id, claim.run_id::text, run.status, run.finished_at
FROM peer_claims AS claim
JOIN peer_runs AS run USING (run_id)
WHERE claim.claim_id = ANY (%s) AND claim.org_id = %s AND claim.outcome = 'exported'
ORDER BY run.finished_at, run.run_id
