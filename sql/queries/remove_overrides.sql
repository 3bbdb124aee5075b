-- Remove what allowed a run to export some claims: overrides, and grants after a reversal.
-- $1 run_id, $2 org_id, $3 claim_ids
WITH granted AS (
    DELETE FROM reversal_grants WHERE run_id = $1 AND org_id = $2 AND claim_id = ANY ($3::text[])
)
DELETE FROM claim_overrides WHERE run_id = $1 AND org_id = $2 AND claim_id = ANY ($3)
