-- The claims that a run names.
SELECT claim_id FROM export_run_claims WHERE run_id = $1
