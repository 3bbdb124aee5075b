-- Runs that started long ago and have not ended, oldest first, above a position. Deleted runs are left out.
-- $1 older_than_s, $2 above_created_at, $3 above_run_id, $4 org_id, $5 limit
SELECT * FROM export_runs
WHERE status = 'pending' AND deleted_at IS NULL AND purged_at IS NULL
    AND created_at < clock_timestamp() - make_interval(secs => $1::integer)
    AND (created_at, run_id) > ($2::timestamptz, $3::uuid)
    AND ($4::text IS NULL OR org_id = $4)
ORDER BY created_at, run_id
LIMIT $5::bigint
