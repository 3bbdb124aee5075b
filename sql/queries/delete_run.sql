-- Hide a run from the history. Its claims stay as they are.
UPDATE export_runs SET deleted_at = $2, deleted_by = $3, deleted_reason = $4 WHERE run_id = $1
