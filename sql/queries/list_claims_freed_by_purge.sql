-- The claims that only this run exported, and that no other run has reserved: once it is purged they are unexported.
SELECT claim_id
FROM export_run_claims AS claim
WHERE run_id = $1 AND outcome = 'exported'
    AND NOT EXISTS (
        SELECT FROM export_run_claims AS other
        WHERE other.claim_id = claim.claim_id AND other.org_id = claim.org_id
            AND other.run_id <> claim.run_id AND other.outcome = 'exported'
        OFFSET 0 -- one probe of the index per claim, whatever the plan was made for
    )
    AND NOT EXISTS (
        SELECT FROM claim_leases AS lease
        WHERE lease.claim_id = claim.claim_id AND lease.org_id = claim.org_id AND lease.run_id <> claim.run_id
        OFFSET 0
    )
ORDER BY claim_id
