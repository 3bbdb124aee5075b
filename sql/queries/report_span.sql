-- When the first and the last of the runs that began in a period began.
-- $1 start, $2 end
SELECT min(created_at) AS first_at, max(created_at) AS last_at
FROM export_runs
WHERE created_at >= coalesce($1::timestamptz, '-infinity') AND created_at < coalesce($2::timestamptz, 'infinity')
