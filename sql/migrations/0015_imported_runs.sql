-- no transaction
-- What was imported from old records: the run says so, and the log has an origin of its own for it.

ALTER TABLE export_runs ADD COLUMN IF NOT EXISTS imported boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN export_runs.imported IS 'Whether an event of the run came from old records.';

ALTER TABLE export_run_events
    DROP CONSTRAINT IF EXISTS export_run_events_origin_check,
    ADD CONSTRAINT export_run_events_origin_check CHECK (origin IN ('event', 'import', 'request', 'command')) NOT VALID;

ALTER TABLE export_run_events VALIDATE CONSTRAINT export_run_events_origin_check;
