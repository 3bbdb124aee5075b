-- Which of these runs were purged.
SELECT run_id FROM export_runs WHERE run_id = ANY ($1::uuid[]) AND purged_at IS NOT NULL
