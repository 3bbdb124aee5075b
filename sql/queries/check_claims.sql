-- Which of these claims have gone out, and by which runs. Organisations and claims come in pairs.
SELECT asked.org_id, asked.claim_id, claim.run_id, run.status, run.finished_at
FROM unnest($1::text[], $2::text[]) AS asked (org_id, claim_id)
JOIN export_run_claims AS claim USING (claim_id, org_id)
JOIN export_runs AS run USING (run_id)
WHERE claim.outcome = 'exported'
