-- The tables of a service that stores runs and their claims and nothing else: the same columns for the fields of an
-- event, the same keys and indexes, no event log.
CREATE TABLE peer_runs (
    run_id          uuid        PRIMARY KEY,
    org_id          text COLLATE "C" NOT NULL,
    created_at      timestamptz NOT NULL,
    status          text        NOT NULL,
    finished_at     timestamptz,
    external_ack_id text,
    claim_count     integer     NOT NULL
);

CREATE INDEX peer_runs_history ON peer_runs (org_id, created_at, run_id);

CREATE TABLE peer_claims (
    claim_id text COLLATE "C" NOT NULL,
    org_id   text COLLATE "C" NOT NULL,
    run_id   uuid             NOT NULL,
    outcome  text             NOT NULL,
    PRIMARY KEY (claim_id, org_id, run_id) INCLUDE (outcome)
);

CREATE INDEX peer_claims_run ON peer_claims (run_id);
