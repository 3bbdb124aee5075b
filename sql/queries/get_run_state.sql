-- How far a run has come, also one that was purged.
SELECT org_id, status, deleted_at, purged_at FROM export_runs WHERE run_id = $1
