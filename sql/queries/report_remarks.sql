-- What an auditor looks at among the runs that began in a period: those without an end, which are stale when they began
-- some seconds before the end of the log; those whose events contradict each other or whose control totals do not add
-- up; those that were deleted or purged, by whom and why.
-- $1 start, $2 end, $3 log_time, $4 stale_s, $5 position
WITH run AS (
    SELECT * FROM export_runs
    WHERE created_at >= coalesce($1::timestamptz, '-infinity') AND created_at < coalesce($2::timestamptz, 'infinity')
)
SELECT run.org_id, run.run_id, run.created_at, remark.remark, remark.time, remark.by_whom, remark.reason
FROM run
CROSS JOIN LATERAL (
    SELECT
        CASE WHEN run.created_at < $3::timestamptz - make_interval(secs => $4::integer) THEN 'stale' ELSE 'pending' END AS remark,
        NULL::timestamptz AS time, run.triggered_by AS by_whom, NULL AS reason
    WHERE run.status = 'pending' AND run.purged_at IS NULL
    UNION ALL
    SELECT 'conflict', NULL, NULL, 'its events contradict each other' WHERE run.has_conflict
    UNION ALL
    SELECT 'totals disagree', NULL, NULL, 'its control totals do not add up to its claims' WHERE run.totals_disagree
    UNION ALL
    SELECT 'deleted', run.deleted_at, run.deleted_by, run.deleted_reason WHERE run.deleted_at IS NOT NULL
    UNION ALL
    SELECT 'purged', run.purged_at, entry.purged_by, NULL
    FROM (
        SELECT logged.payload ->> 'purgedBy' AS purged_by
        FROM export_run_events AS logged
        WHERE logged.run_id = run.run_id AND logged.event_type = 'run-purged' AND logged.position <= $5::bigint
        ORDER BY logged.position DESC
        LIMIT 1
    ) AS entry
    WHERE run.purged_at IS NOT NULL
) AS remark
ORDER BY run.org_id, run.created_at, run.run_id, remark.remark COLLATE "C"
