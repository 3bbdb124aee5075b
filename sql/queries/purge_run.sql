-- Leave nothing of a run but its id, and that it was purged. $1 run_id, $2 purged_at
UPDATE export_runs SET
    created_event_id = NULL, created_digest = NULL, triggered_by = NULL, format = NULL, target_system = NULL,
    period_start = NULL, period_end = NULL, retry_of_run_id = NULL, override_reason = NULL, override_approved_by = NULL,
    status = 'pending', finished_at = NULL, finished_event_id = NULL, finished_digest = NULL, error_code = NULL,
    error_detail = NULL, artifact_key = NULL, artifact_sha256 = NULL, artifact_size_bytes = NULL,
    external_ack_id = NULL, claim_count = 0, skipped_count = 0, reversed_count = 0,
    deleted_at = NULL, deleted_by = NULL, deleted_reason = NULL, trigger = NULL, scope = NULL, totals = NULL,
    totals_disagree = false, has_conflict = false, imported = false, purged_at = $2::timestamptz
WHERE run_id = $1
