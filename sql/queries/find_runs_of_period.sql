-- The runs of an organisation that may have exported something of a period, newest first; those with a time in the
-- future come last. A period includes both its ends. A run that names only one end is open at the other.
-- $1 org_id, $2 period_start, $3 period_end, $4 target_system, $5 scope, $6 future_start, $7 limit
SELECT *, greatest(period_start, $2::date) AS overlap_start, least(period_end, $3::date) AS overlap_end
FROM export_runs
WHERE org_id = $1
    AND (period_start IS NOT NULL OR period_end IS NOT NULL)
    AND coalesce(period_end, 'infinity') >= $2
    AND coalesce(period_start, '-infinity') <= $3
    AND status <> 'failed'
    AND ($4::text IS NULL OR target_system = $4)
    AND ($5::text IS NULL OR scope = $5)
ORDER BY created_at >= $6::timestamptz, created_at DESC, run_id DESC
LIMIT $7::bigint
