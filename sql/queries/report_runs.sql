-- The runs that began in a period, whose end is not part of it.
-- $1 start, $2 end
SELECT
    org_id, run_id, created_at, triggered_by, trigger, format, target_system, scope, period_start, period_end,
    retry_of_run_id, CASE WHEN purged_at IS NULL THEN status::text ELSE 'purged' END AS status, finished_at,
    claim_count, skipped_count, reversed_count, error_code, error_detail, external_ack_id, artifact_key,
    artifact_sha256, artifact_size_bytes, imported, has_conflict, totals_disagree, deleted_at, purged_at
FROM export_runs
WHERE created_at >= coalesce($1::timestamptz, '-infinity') AND created_at < coalesce($2::timestamptz, 'infinity')
ORDER BY org_id, created_at, run_id
