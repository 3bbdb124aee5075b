-- Leases on claims, the overrides granted with them, and the double exports found.

CREATE SEQUENCE claim_fencing_tokens AS bigint;

CREATE TABLE claim_leases (
    claim_id      text COLLATE "C" NOT NULL CHECK (char_length(claim_id) BETWEEN 1 AND 200),
    org_id        text COLLATE "C" NOT NULL CHECK (char_length(org_id) BETWEEN 1 AND 200),
    run_id        uuid             NOT NULL,
    expires_at    timestamptz      NOT NULL,
    fencing_token bigint           NOT NULL,
    -- One row a claim: it cannot have two holders.
    PRIMARY KEY (claim_id, org_id)
);
COMMENT ON TABLE claim_leases IS
    'Who may export a claim now, and until when. A lease that has expired stays until it is released or taken.';

CREATE INDEX claim_leases_of_run ON claim_leases (run_id);

CREATE TABLE claim_overrides (
    run_id         uuid             NOT NULL,
    claim_id       text COLLATE "C" NOT NULL CHECK (char_length(claim_id) BETWEEN 1 AND 200),
    org_id         text COLLATE "C" NOT NULL,
    earlier_run_id uuid             NOT NULL,
    reason         text             NOT NULL,
    approved_by    text             NOT NULL,
    granted_at     timestamptz      NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, claim_id, org_id, earlier_run_id)
);
COMMENT ON TABLE claim_overrides IS 'Claims that a run may export although an earlier run has: by whose word, and why.';

CREATE TABLE double_exports (
    id             bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id       uuid             NOT NULL DEFAULT gen_random_uuid(),
    org_id         text COLLATE "C" NOT NULL,
    claim_id       text COLLATE "C" NOT NULL,
    -- The run that was known to have exported the claim, and the one found to have done so too; the same run, where
    -- it named the claim twice.
    first_run_id   uuid             NOT NULL,
    second_run_id  uuid             NOT NULL,
    found_by       text             NOT NULL CHECK (found_by IN ('another-run', 'repeated-in-run')),
    detected_at    timestamptz      NOT NULL DEFAULT clock_timestamp(),
    -- The alert: null until the broker has confirmed it.
    published_at   timestamptz,
    resolved_at    timestamptz,
    resolved_by    text,
    note           text,
    CONSTRAINT resolved_at_once CHECK (
        (resolved_at IS NULL) = (resolved_by IS NULL) AND (resolved_at IS NULL) = (note IS NULL)
    )
);
COMMENT ON TABLE double_exports IS 'Every claim that went out twice, once a pair of runs; and the outbox of their alerts.';

-- Whichever of the two was found second: once a pair.
CREATE UNIQUE INDEX double_exports_pair ON double_exports (
    claim_id, org_id, least(first_run_id, second_run_id), greatest(first_run_id, second_run_id)
);
CREATE INDEX double_exports_of_organisation ON double_exports (org_id, id);
CREATE INDEX double_exports_unpublished ON double_exports (id) WHERE published_at IS NULL;

-- Runs that have not ended, the oldest first.
CREATE INDEX export_runs_pending ON export_runs (created_at, run_id) WHERE status = 'pending';

ALTER TABLE export_run_events DROP CONSTRAINT export_run_events_event_type_check;
ALTER TABLE export_run_events ADD CONSTRAINT export_run_events_event_type_check CHECK (event_type IN (
    'run-created', 'run-finished', 'run-deleted', 'run-purged', 'dead-letter-discarded', 'claims-taken',
    'double-export-resolved'
));
ALTER TABLE export_run_events DROP CONSTRAINT of_a_run;
ALTER TABLE export_run_events ADD CONSTRAINT of_a_run CHECK (
    event_type = 'dead-letter-discarded' OR (run_id IS NOT NULL AND org_id IS NOT NULL)
);
