-- One run; no event is merged into it until the transaction ends.
SELECT * FROM export_runs WHERE run_id = $1 AND purged_at IS NULL FOR UPDATE
