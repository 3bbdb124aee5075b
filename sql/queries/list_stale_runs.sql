-- Runs that started long ago and have not ended, the oldest first, past a point. A deleted run is nobody's worry.
SELECT * FROM export_runs
WHERE status = 'pending' AND deleted_at IS NULL
    AND created_at < clock_timestamp() - make_interval(secs => $1::integer)
    AND (created_at, run_id) > ($2::timestamptz, $3::uuid)
    AND ($4::text IS NULL OR org_id = $4)
ORDER BY created_at, run_id
LIMIT $5::bigint
