-- A page of an organisation's double exports, the newest first.
SELECT * FROM double_exports
WHERE org_id = $1 AND id < $2::bigint AND ($3::boolean IS NULL OR (resolved_at IS NOT NULL) = $3)
ORDER BY id DESC
LIMIT $4::bigint
