-- What the end of a run says beside the outcomes of its claims: control totals, vouchers, amounts, codes.

ALTER TABLE export_runs
    ADD COLUMN totals jsonb,
    ADD COLUMN totals_disagree boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN export_runs.totals IS
    'Of the event that the status comes from: [currency, claim count, amount as a decimal string] for each currency.';

CREATE TABLE claim_details (
    claim_id    text COLLATE "C" NOT NULL CHECK (char_length(claim_id) BETWEEN 1 AND 200),
    org_id      text COLLATE "C" NOT NULL CHECK (char_length(org_id) BETWEEN 1 AND 200),
    run_id      uuid             NOT NULL,
    -- The run-finished that says so. Those of the run's finished_event_id count.
    event_id    uuid             NOT NULL,
    voucher_id  text             CHECK (char_length(voucher_id) BETWEEN 1 AND 200),
    voucher_url text             CHECK (char_length(voucher_url) BETWEEN 1 AND 2048),
    amount      numeric(22, 4),
    currency    text             CHECK (currency ~ '^[A-Z]{3}$'),
    skip_code   text             CHECK (char_length(skip_code) BETWEEN 1 AND 200),
    PRIMARY KEY (run_id, event_id, claim_id)
);
COMMENT ON TABLE claim_details IS
    'Only what was given. Each event has rows of its own, so nothing depends on the order of the events.';
