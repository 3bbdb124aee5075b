-- What is left of a run that was purged: its id. So no event of it, however late, brings it back unnoticed.

ALTER TABLE export_runs ADD COLUMN IF NOT EXISTS purged_at timestamptz;

ALTER TABLE export_runs DROP CONSTRAINT IF EXISTS nothing_left_of_a_purged_run;
ALTER TABLE export_runs ADD CONSTRAINT nothing_left_of_a_purged_run CHECK (
    purged_at IS NULL OR (created_event_id IS NULL AND finished_event_id IS NULL AND claim_count + skipped_count = 0)
) NOT VALID;

ALTER TABLE export_run_events DROP CONSTRAINT IF EXISTS export_run_events_event_type_check;
ALTER TABLE export_run_events ADD CONSTRAINT export_run_events_event_type_check CHECK (event_type IN (
    'run-created', 'run-finished', 'run-deleted', 'run-purged', 'run-unpurged', 'dead-letter-discarded', 'claims-taken',
    'double-export-resolved'
)) NOT VALID;
