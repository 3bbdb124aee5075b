-- A page of an organisation's runs below a point, newest first. Where nothing bounds the page, the point is
-- the latest there can be: one shape, so one plan, for every page. The upper time is never above the point: the
-- scan starts at it, and would else walk down to the point over all the pages before.
SELECT *
FROM export_runs
WHERE org_id = $1
    AND (created_at, run_id) < ($2::timestamptz, $3::uuid)
    AND created_at BETWEEN $4::timestamptz AND least($5::timestamptz, $2)
    AND ($6::text IS NULL OR status = $6::run_status)
    AND ($7::text IS NULL OR target_system = $7)
    AND ($8::boolean OR deleted_at IS NULL)
ORDER BY created_at DESC, run_id DESC
LIMIT $9::bigint OFFSET $10::bigint
