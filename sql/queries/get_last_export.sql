-- The run of an organisation that was the last to end as completed or partial. One that ended in the future, by an
-- exporter's wrong clock, counts only if there is no other.
-- $1 org_id, $2 target_system, $3 scope, $4 future_start
SELECT *
FROM (
    (
        SELECT * FROM export_runs
        WHERE org_id = $1 AND status IN ('partial', 'completed') AND deleted_at IS NULL
            AND ($2::text IS NULL OR target_system = $2)
            AND ($3::text IS NULL OR scope = $3)
            AND finished_at < $4::timestamptz
        ORDER BY finished_at DESC, run_id DESC
        LIMIT 1
    )
    UNION ALL
    (
        SELECT * FROM export_runs
        WHERE org_id = $1 AND status IN ('partial', 'completed') AND deleted_at IS NULL
            AND ($2::text IS NULL OR target_system = $2)
            AND ($3::text IS NULL OR scope = $3)
            AND finished_at >= $4::timestamptz
        ORDER BY finished_at DESC, run_id DESC
        LIMIT 1
    )
) AS run
ORDER BY finished_at >= $4, finished_at DESC, run_id DESC
LIMIT 1
