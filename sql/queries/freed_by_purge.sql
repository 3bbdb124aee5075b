-- The claims that only this run exported: without it they count as unexported.
SELECT claim_id
FROM export_run_claims AS claim
WHERE run_id = $1 AND outcome = 'exported'
    AND NOT EXISTS (
        SELECT FROM export_run_claims AS other
        WHERE other.claim_id = claim.claim_id AND other.org_id = claim.org_id
            AND other.run_id <> claim.run_id AND other.outcome = 'exported'
    )
ORDER BY claim_id
