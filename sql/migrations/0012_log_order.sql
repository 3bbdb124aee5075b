-- no transaction
-- Every entry of the log gets a place in an order that agrees with what took effect. Entries that are there get places
-- up to 0 by their arrival, so that new ones, which begin at 1, need not wait until the old ones are counted.

CREATE SEQUENCE IF NOT EXISTS export_run_event_positions AS bigint;

ALTER TABLE export_run_events ADD COLUMN IF NOT EXISTS position bigint;
-- squawk-ignore prefer-robust-stmts
ALTER TABLE export_run_events ALTER COLUMN position SET DEFAULT nextval('export_run_event_positions');
COMMENT ON COLUMN export_run_events.position IS
    'Drawn under the locks of the run and its claims: of two entries of a run, or of a claim, the lower took effect first.';

-- Only the places are written; whatever else was logged cannot be changed meanwhile either.
CREATE OR REPLACE TRIGGER append_only
    BEFORE UPDATE OF event_id, event_type, origin, run_id, org_id, occurred_at, received_at, payload OR DELETE OR TRUNCATE
    ON export_run_events FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_event_log();

UPDATE export_run_events AS entry
SET position = earlier.position
FROM (
    SELECT
        event_id,
        row_number() OVER (ORDER BY received_at, event_id) - count(*) OVER () AS position
    FROM export_run_events
    WHERE position IS NULL
) AS earlier
WHERE entry.event_id = earlier.event_id;

CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON export_run_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_event_log();

ALTER TABLE export_run_events DROP CONSTRAINT IF EXISTS has_position;
ALTER TABLE export_run_events ADD CONSTRAINT has_position CHECK (position IS NOT NULL) NOT VALID;
ALTER TABLE export_run_events VALIDATE CONSTRAINT has_position;

-- The log of an organisation in its order: to verify and to rebuild the other tables.
CREATE INDEX CONCURRENTLY IF NOT EXISTS export_run_events_order ON export_run_events (org_id COLLATE "C", position);
