-- How many runs all pages of list_history hold together. It counts no further than a limit.
-- $1 org_id, $2 created_from, $3 created_to, $4 status, $5 target_system, $6 format, $7 triggered_by,
-- $8 external_ack_id, $9 scope, $10 trigger, $11 has_conflict, $12 period_from, $13 period_to, $14 include_deleted, $15 limit
SELECT count(*)
FROM (
    SELECT
    FROM export_runs
    WHERE org_id = $1
        AND created_at BETWEEN $2::timestamptz AND $3::timestamptz
        AND ($4::text IS NULL OR status = $4::run_status)
        AND ($5::text IS NULL OR target_system = $5)
        AND ($6::text IS NULL OR format = $6)
        AND ($7::text IS NULL OR triggered_by = $7)
        AND ($8::text IS NULL OR external_ack_id = $8)
        AND ($9::text IS NULL OR scope = $9)
        AND ($10::text IS NULL OR trigger = $10)
        AND ($11::boolean IS NULL OR has_conflict = $11)
        AND ($12::date IS NULL OR coalesce(period_end, 'infinity') >= $12)
        AND ($13::date IS NULL OR coalesce(period_start, '-infinity') <= $13)
        AND (coalesce($12, $13) IS NULL OR period_start IS NOT NULL OR period_end IS NOT NULL)
        AND ($14::boolean OR deleted_at IS NULL)
        AND purged_at IS NULL
    LIMIT $15::bigint
) AS run
