-- The overrides that a run was granted.
SELECT claim_id, earlier_run_id, reason, approved_by, granted_at
FROM claim_overrides
WHERE run_id = $1 AND org_id = $2
ORDER BY claim_id, earlier_run_id, approved_by
