-- no transaction
-- A double export belongs to a claim: one record for each, which grows with its runs. The runs themselves follow from
-- export_run_claims and claim_overrides. What workers of the version before this one find they go on writing into
-- double_exports, one row per pair of runs, and a trigger brings it along. A later version drops that table.

CREATE TABLE IF NOT EXISTS double_exported_claims (
    org_id         text COLLATE "C" NOT NULL,
    claim_id       text COLLATE "C" NOT NULL,
    detected_at    timestamptz      NOT NULL,
    -- When the latest of its runs was found to have exported it. That opens a record again that was resolved.
    last_joined_at timestamptz      NOT NULL,
    resolved_at    timestamptz,
    resolved_by    text,
    note           text,
    PRIMARY KEY (org_id, claim_id),
    CONSTRAINT resolved_at_once CHECK (
        (resolved_at IS NULL) = (resolved_by IS NULL) AND (resolved_at IS NULL) = (note IS NULL)
    )
);
COMMENT ON TABLE double_exported_claims IS 'Every claim that went out twice.';

CREATE INDEX CONCURRENTLY IF NOT EXISTS double_exported_claims_open
    ON double_exported_claims (org_id, claim_id) WHERE resolved_at IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS double_exported_claims_resolved
    ON double_exported_claims (org_id, claim_id) WHERE resolved_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS repeated_claims (
    claim_id text COLLATE "C" NOT NULL,
    org_id   text COLLATE "C" NOT NULL,
    run_id   uuid             NOT NULL,
    PRIMARY KEY (claim_id, org_id, run_id)
);
COMMENT ON TABLE repeated_claims IS 'Every claim that a run named twice among those it exported.';

CREATE TABLE IF NOT EXISTS alerts (
    org_id          text COLLATE "C" NOT NULL,
    event_id        uuid             NOT NULL,
    occurred_at     timestamptz      NOT NULL,
    run_id          uuid             NOT NULL,
    claim_count     integer          NOT NULL CHECK (claim_count > 0),
    -- The first of them.
    claim_ids       text[]           NOT NULL,
    earlier_run_ids uuid[]           NOT NULL,
    found_by        text             NOT NULL CHECK (found_by IN ('another-run', 'repeated-in-run')),
    attempts        integer          NOT NULL DEFAULT 0,
    -- Until then it waits, or a worker has taken it.
    next_attempt_at timestamptz      NOT NULL,
    PRIMARY KEY (org_id, event_id)
);
COMMENT ON TABLE alerts IS 'The outbox: alerts that RabbitMQ has not confirmed yet.';

CREATE INDEX CONCURRENTLY IF NOT EXISTS alerts_next ON alerts (org_id, next_attempt_at, event_id);

CREATE OR REPLACE FUNCTION bring_double_exports_along() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO repeated_claims (claim_id, org_id, run_id)
    SELECT claim_id, org_id, second_run_id FROM new_row WHERE found_by = 'repeated-in-run'
    ON CONFLICT DO NOTHING;

    INSERT INTO double_exported_claims AS record (org_id, claim_id, detected_at, last_joined_at)
    SELECT org_id, claim_id, min(detected_at), max(detected_at)
    FROM new_row
    GROUP BY org_id, claim_id
    ORDER BY org_id, claim_id
    ON CONFLICT (org_id, claim_id) DO UPDATE SET
        last_joined_at = excluded.last_joined_at, resolved_at = NULL, resolved_by = NULL, note = NULL;

    INSERT INTO alerts (
        org_id, event_id, occurred_at, run_id, found_by, claim_count, claim_ids, earlier_run_ids, next_attempt_at
    )
    SELECT
        org_id, gen_random_uuid(), max(detected_at), second_run_id, min(found_by), count(DISTINCT claim_id),
        (array_agg(DISTINCT claim_id))[1:100],
        coalesce((array_agg(DISTINCT first_run_id) FILTER (WHERE found_by = 'another-run'))[1:10], '{}'),
        max(detected_at)
    FROM new_row
    GROUP BY org_id, second_run_id;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER bring_along AFTER INSERT ON double_exports
    REFERENCING NEW TABLE AS new_row FOR EACH STATEMENT EXECUTE FUNCTION bring_double_exports_along();

INSERT INTO repeated_claims (claim_id, org_id, run_id)
SELECT claim_id, org_id, second_run_id FROM double_exports WHERE found_by = 'repeated-in-run'
ON CONFLICT DO NOTHING;

-- A claim's record is resolved if all its pairs were, by whoever resolved the last of them.
INSERT INTO double_exported_claims AS record (
    org_id, claim_id, detected_at, last_joined_at, resolved_at, resolved_by, note
)
SELECT
    org_id, claim_id, min(detected_at), max(detected_at),
    CASE WHEN bool_and(resolved_at IS NOT NULL) THEN max(resolved_at) END,
    CASE WHEN bool_and(resolved_at IS NOT NULL) THEN (array_agg(resolved_by ORDER BY resolved_at DESC, id DESC))[1] END,
    CASE WHEN bool_and(resolved_at IS NOT NULL) THEN (array_agg(note ORDER BY resolved_at DESC, id DESC))[1] END
FROM double_exports
GROUP BY org_id, claim_id
ORDER BY org_id, claim_id
ON CONFLICT (org_id, claim_id) DO UPDATE SET detected_at = least(record.detected_at, excluded.detected_at);

-- The id follows from the run, so that this can be repeated.
INSERT INTO alerts (
    org_id, event_id, occurred_at, run_id, found_by, claim_count, claim_ids, earlier_run_ids, next_attempt_at
)
SELECT
    org_id, md5(org_id || second_run_id)::uuid, max(detected_at), second_run_id, min(found_by),
    count(DISTINCT claim_id), (array_agg(DISTINCT claim_id))[1:100],
    coalesce((array_agg(DISTINCT first_run_id) FILTER (WHERE found_by = 'another-run'))[1:10], '{}'),
    max(detected_at)
FROM double_exports
WHERE published_at IS NULL
GROUP BY org_id, second_run_id
ON CONFLICT (org_id, event_id) DO NOTHING;

-- Another approver's override of the same claim and run is a row of its own.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS claim_overrides_of_claim
    ON claim_overrides (claim_id, org_id, run_id, earlier_run_id, approved_by);
CREATE INDEX CONCURRENTLY IF NOT EXISTS claim_overrides_of_run ON claim_overrides (run_id, claim_id);
ALTER TABLE claim_overrides DROP CONSTRAINT IF EXISTS claim_overrides_pkey;

ALTER TABLE export_run_events DROP CONSTRAINT IF EXISTS export_run_events_event_type_check;
ALTER TABLE export_run_events ADD CONSTRAINT export_run_events_event_type_check CHECK (event_type IN (
    'run-created', 'run-finished', 'run-deleted', 'run-purged', 'run-unpurged', 'dead-letter-discarded', 'claims-taken',
    'overrides-withdrawn', 'double-export-resolved'
)) NOT VALID;
ALTER TABLE export_run_events VALIDATE CONSTRAINT export_run_events_event_type_check;

-- A resolution is about a claim, and names its runs in its payload.
ALTER TABLE export_run_events DROP CONSTRAINT IF EXISTS of_a_run;
ALTER TABLE export_run_events ADD CONSTRAINT of_a_run CHECK (
    event_type = 'dead-letter-discarded'
    OR (org_id IS NOT NULL AND (run_id IS NOT NULL OR event_type = 'double-export-resolved'))
) NOT VALID;
ALTER TABLE export_run_events VALIDATE CONSTRAINT of_a_run;
