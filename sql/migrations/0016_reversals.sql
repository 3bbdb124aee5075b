-- no transaction
-- Exports that were taken back: by whose word, why, and which later grants follow from that.

-- Above 'exported', so that an event that arrives later never undoes it, and so that it is no export.
ALTER TYPE claim_outcome ADD VALUE IF NOT EXISTS 'reversed' AFTER 'exported';

CREATE TABLE IF NOT EXISTS export_reversals (
    org_id               text COLLATE "C" NOT NULL CHECK (char_length(org_id) BETWEEN 1 AND 200),
    -- The entry of the log.
    event_id             uuid             NOT NULL,
    run_id               uuid             NOT NULL,
    of_whole_run         boolean          NOT NULL,
    reversed_at          timestamptz      NOT NULL,
    -- An export of another run that ended after this time is one that came after the reversal.
    separates_after      timestamptz      NOT NULL,
    reason               text             NOT NULL,
    reversed_by          text             NOT NULL,
    approved_by          text             NOT NULL,
    external_reversal_id text,
    PRIMARY KEY (org_id, event_id)
);
COMMENT ON TABLE export_reversals IS 'Exports that were taken back: by whose word, and why.';

CREATE INDEX CONCURRENTLY IF NOT EXISTS export_reversals_of_run ON export_reversals (run_id, org_id);

CREATE TABLE IF NOT EXISTS claim_reversals (
    claim_id text COLLATE "C" NOT NULL CHECK (char_length(claim_id) BETWEEN 1 AND 200),
    org_id   text COLLATE "C" NOT NULL,
    run_id   uuid             NOT NULL,
    event_id uuid             NOT NULL,
    PRIMARY KEY (org_id, claim_id, run_id)
);
COMMENT ON TABLE claim_reversals IS 'The claims of each reversal. An export is taken back once. A purge of the run leaves them.';

CREATE INDEX CONCURRENTLY IF NOT EXISTS claim_reversals_of_run ON claim_reversals (run_id);

CREATE TABLE IF NOT EXISTS reversal_grants (
    claim_id        text COLLATE "C" NOT NULL CHECK (char_length(claim_id) BETWEEN 1 AND 200),
    org_id          text COLLATE "C" NOT NULL,
    run_id          uuid             NOT NULL,
    reversed_run_id uuid             NOT NULL,
    granted_at      timestamptz      NOT NULL,
    PRIMARY KEY (org_id, claim_id, run_id, reversed_run_id)
);
COMMENT ON TABLE reversal_grants IS 'Claims that a run was granted after the export by another run had been taken back.';

ALTER TABLE export_runs ADD COLUMN IF NOT EXISTS reversed_count integer NOT NULL DEFAULT 0;
ALTER TABLE export_runs ADD COLUMN IF NOT EXISTS early_finished_at timestamptz;
COMMENT ON COLUMN export_runs.early_finished_at IS
    'When the earliest end of the run occurred, if that is not finished_at: events of it contradict each other.';

UPDATE export_runs AS run
SET early_finished_at = earliest.finished_at
FROM (
    SELECT entry.run_id, entry.org_id, min(entry.occurred_at) AS finished_at
    FROM export_run_events AS entry
    JOIN export_runs AS contradicted USING (run_id, org_id)
    WHERE entry.event_type = 'run-finished' AND contradicted.has_conflict
    GROUP BY entry.run_id, entry.org_id
) AS earliest
WHERE run.run_id = earliest.run_id AND run.org_id = earliest.org_id AND earliest.finished_at < run.finished_at
    AND run.early_finished_at IS NULL;

-- Whether a reversal lies between the exports of a claim by two runs, so that they are no double export: one of the two
-- was granted the claim after the export of the other had been taken back, or ended so much later.
CREATE OR REPLACE FUNCTION reversal_separates(
    org_id text, claim_id text, run_id uuid, finished_at timestamptz, other_run_id uuid
) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM claim_reversals AS claim
        JOIN export_reversals AS reversal ON reversal.org_id = claim.org_id AND reversal.event_id = claim.event_id
        WHERE claim.org_id = $1 AND claim.claim_id = $2 AND claim.run_id IN ($3, $5)
            AND reversal.separates_after < CASE claim.run_id WHEN $5 THEN $4 ELSE (
                SELECT coalesce(run.early_finished_at, run.finished_at) FROM export_runs AS run WHERE run.run_id = $5
            ) END
    ) OR EXISTS (
        SELECT FROM reversal_grants AS granted
        WHERE granted.org_id = $1 AND granted.claim_id = $2
            AND granted.run_id IN ($3, $5) AND granted.reversed_run_id IN ($3, $5)
    )
$$;

ALTER TABLE export_run_events DROP CONSTRAINT IF EXISTS export_run_events_event_type_check;
ALTER TABLE export_run_events ADD CONSTRAINT export_run_events_event_type_check CHECK (event_type IN (
    'run-created', 'run-finished', 'run-deleted', 'run-purged', 'run-unpurged', 'dead-letter-discarded', 'claims-taken',
    'overrides-withdrawn', 'double-export-resolved', 'export-reversed'
)) NOT VALID;
ALTER TABLE export_run_events VALIDATE CONSTRAINT export_run_events_event_type_check;
