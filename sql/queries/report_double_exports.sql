-- Claims that went out more than once, where one of their exports was by a run of a period, each with the number of its
-- exports, and of those that were not taken back.
-- $1 start, $2 end
SELECT
    record.org_id, record.claim_id, CASE WHEN record.resolved_at IS NULL THEN 'open' ELSE 'resolved' END AS state,
    export.runs, export.runs_left, record.detected_at, record.last_joined_at, record.resolved_at, record.resolved_by,
    record.note
FROM double_exported_claims AS record
CROSS JOIN LATERAL (
    SELECT
        count(*) AS runs, count(*) FILTER (WHERE claim.outcome = 'exported') AS runs_left,
        bool_or(
            run.created_at >= coalesce($1::timestamptz, '-infinity')
            AND run.created_at < coalesce($2::timestamptz, 'infinity')
        ) AS is_of_period
    FROM export_run_claims AS claim
    JOIN export_runs AS run USING (run_id, org_id)
    WHERE claim.claim_id = record.claim_id AND claim.org_id = record.org_id AND claim.outcome >= 'exported'
) AS export
WHERE export.is_of_period
ORDER BY record.org_id, record.claim_id
