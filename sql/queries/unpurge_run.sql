-- Let events be merged into a run that was purged; returns nothing where it was not.
UPDATE export_runs SET purged_at = NULL WHERE run_id = $1 AND purged_at IS NOT NULL RETURNING org_id
