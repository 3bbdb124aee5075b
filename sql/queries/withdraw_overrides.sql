-- Withdraw what allowed a run to export claims that it holds and is about to give back, some or all of them: overrides,
-- and grants after a reversal; returns the claims.
-- $3 claim_ids
WITH override AS (
    DELETE FROM claim_overrides AS override
    USING claim_leases AS lease
    WHERE lease.run_id = $1 AND lease.org_id = $2
        AND ($3::text[] IS NULL OR lease.claim_id IN (SELECT unnest($3::text[])))
        AND override.run_id = lease.run_id AND override.org_id = lease.org_id AND override.claim_id = lease.claim_id
    RETURNING override.claim_id
), granted AS (
    DELETE FROM reversal_grants AS granted
    USING claim_leases AS lease
    WHERE lease.run_id = $1 AND lease.org_id = $2
        AND ($3 IS NULL OR lease.claim_id IN (SELECT unnest($3)))
        AND granted.run_id = lease.run_id AND granted.org_id = lease.org_id AND granted.claim_id = lease.claim_id
    RETURNING granted.claim_id
)
SELECT claim_id FROM override UNION SELECT claim_id FROM granted
