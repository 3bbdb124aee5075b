-- Remove the claims of a run.
DELETE FROM export_run_claims WHERE run_id = $1
