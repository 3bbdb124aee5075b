-- How many runs the pages of list_history hold together, counted no further than a limit.
SELECT count(*)
FROM (
    SELECT
    FROM export_runs
    WHERE org_id = $1
        AND created_at BETWEEN $2::timestamptz AND $3::timestamptz
        AND ($4::text IS NULL OR status = $4::run_status)
        AND ($5::text IS NULL OR target_system = $5)
        AND ($6::boolean OR deleted_at IS NULL)
    LIMIT $7::bigint
) AS counted
