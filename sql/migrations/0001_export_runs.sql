-- The event log, the runs, their claims.

CREATE TYPE run_status AS ENUM ('pending', 'failed', 'partial', 'completed');
CREATE TYPE claim_outcome AS ENUM ('attempted', 'skipped', 'exported');
-- Both are ordered: the merge takes the greater of two.

CREATE TABLE export_run_events (
    event_id    uuid        PRIMARY KEY,
    event_type  text        NOT NULL CHECK (
        event_type IN ('run-created', 'run-finished', 'run-deleted', 'run-purged', 'dead-letter-discarded')
    ),
    origin      text        NOT NULL CHECK (origin IN ('event', 'request', 'command')),
    -- A dead letter that was discarded may have named no run.
    run_id      uuid,
    org_id      text        CHECK (char_length(org_id) BETWEEN 1 AND 200),
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload     json        NOT NULL,
    CONSTRAINT of_a_run CHECK (
        event_type = 'dead-letter-discarded' OR (run_id IS NOT NULL AND org_id IS NOT NULL)
    )
);
COMMENT ON TABLE export_run_events IS
    'Append-only: every event and every write request, as it was received. The other tables follow from it.';
COMMENT ON COLUMN export_run_events.payload IS
    'json, not jsonb: kept to the letter, and \u0000 or 1e200000 in a field nobody knows does no harm.';

CREATE INDEX export_run_events_run ON export_run_events (run_id);

CREATE FUNCTION refuse_change_of_event_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'export_run_events is append-only: % refused', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON export_run_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_event_log();

CREATE TABLE export_runs (
    run_id               uuid        PRIMARY KEY,
    org_id               text COLLATE "C" NOT NULL CHECK (char_length(org_id) BETWEEN 1 AND 200),
    -- Until run-created has arrived: when the earliest event known occurred.
    created_at           timestamptz NOT NULL,
    -- The facts of the earliest run-created; created_event_id is null until there is one.
    created_event_id     uuid,
    created_digest       bytea,
    triggered_by         text        CHECK (char_length(triggered_by) BETWEEN 1 AND 200),
    format               text        CHECK (char_length(format) BETWEEN 1 AND 200),
    target_system        text        CHECK (char_length(target_system) BETWEEN 1 AND 200),
    period_start         date,
    period_end           date        CHECK (period_start <= period_end),
    retry_of_run_id      uuid,
    override_reason      text,
    override_approved_by text,
    -- The facts of the earliest run-finished that has the highest status.
    status               run_status  NOT NULL DEFAULT 'pending',
    finished_at          timestamptz,
    finished_event_id    uuid,
    finished_digest      bytea,
    error_code           text,
    error_detail         text        CHECK (char_length(error_detail) <= 2000),
    artifact_key         text,
    artifact_sha256      text,
    artifact_size_bytes  bigint      CHECK (artifact_size_bytes >= 0),
    external_ack_id      text,
    -- Counted over export_run_claims.
    claim_count          integer     NOT NULL DEFAULT 0 CHECK (claim_count >= 0),
    skipped_count        integer     NOT NULL DEFAULT 0 CHECK (skipped_count >= 0),
    -- A deleted run is hidden from the history, and from nothing else.
    deleted_at           timestamptz,
    deleted_by           text,
    deleted_reason       text,
    has_conflict         boolean     NOT NULL DEFAULT false,
    CONSTRAINT finished_at_once CHECK (
        (status = 'pending') = (finished_event_id IS NULL)
        AND (status = 'pending') = (finished_at IS NULL)
        AND (status = 'pending') = (finished_digest IS NULL)
    ),
    CONSTRAINT created_at_once CHECK (
        (created_event_id IS NULL) = (created_digest IS NULL)
        AND (created_event_id IS NULL) = (triggered_by IS NULL)
        AND (created_event_id IS NULL) = (format IS NULL)
    )
);

-- A page of history, by cursor or by offset.
CREATE INDEX export_runs_history ON export_runs (org_id, created_at, run_id);

CREATE TABLE export_run_claims (
    -- "C": ids are compared by their bytes, which is faster, and the same on every machine.
    claim_id    text COLLATE "C" NOT NULL CHECK (char_length(claim_id) BETWEEN 1 AND 200),
    org_id      text COLLATE "C" NOT NULL,
    run_id      uuid             NOT NULL,
    outcome     claim_outcome    NOT NULL,
    skip_reason text COLLATE "C",
    -- Claim first: both "this claim" and "this claim of this organisation" are one probe, and claim number 1
    -- of one organisation never walks over everybody else's.
    PRIMARY KEY (claim_id, org_id, run_id) INCLUDE (outcome)
);
COMMENT ON TABLE export_run_claims IS
    'No foreign key to export_runs: the merge writes both in one transaction, and a check a claim costs more than the claim.';

-- The claims of one run.
CREATE INDEX export_run_claims_run ON export_run_claims (run_id, claim_id);
