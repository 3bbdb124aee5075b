-- One run, unless it was purged.
SELECT * FROM export_runs WHERE run_id = $1 AND purged_at IS NULL
