-- no transaction
-- What the questions about periods and about the last export are answered from.

-- A run that names only one end of its period is open at the other.
CREATE INDEX CONCURRENTLY IF NOT EXISTS export_runs_period ON export_runs (
    org_id, coalesce(period_end, 'infinity'), coalesce(period_start, '-infinity')
) WHERE period_start IS NOT NULL OR period_end IS NOT NULL;

CREATE INDEX CONCURRENTLY IF NOT EXISTS export_runs_last_export ON export_runs (org_id, finished_at, run_id)
    WHERE status IN ('partial', 'completed') AND deleted_at IS NULL;
