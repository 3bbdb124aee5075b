-- Note that somebody has dealt with a double export.
-- $1 org_id, $2 claim_id
UPDATE double_exported_claims SET resolved_at = $3, resolved_by = $4, note = $5 WHERE org_id = $1 AND claim_id = $2
RETURNING *
