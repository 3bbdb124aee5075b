-- A page of an organisation's runs below a point, newest first. Where nothing bounds the page, the point is
-- (infinity, the highest uuid) and the times are infinite: one shape, so one plan, for every page.
SELECT *
FROM export_runs
WHERE org_id = $1
    AND (created_at, run_id) < ($2::timestamptz, $3::uuid)
    AND created_at BETWEEN $4::timestamptz AND $5::timestamptz
    AND ($6::text IS NULL OR status = $6::run_status)
    AND ($7::text IS NULL OR target_system = $7)
    AND ($8::boolean OR deleted_at IS NULL)
ORDER BY created_at DESC, run_id DESC
LIMIT $9::bigint OFFSET $10::bigint
