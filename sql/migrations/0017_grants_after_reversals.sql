-- no transaction
-- Only a grant after a reversal says that an export came after it; the time of its end, by the clock of its exporter,
-- does not. No version that was released has gone by that time.

-- A row if one of two runs may export a claim although the other one had: an override names the two, or one was granted
-- the claim after the export of it by the other had been taken back. Grants are looked for only if there may be some. In
-- FROM, PostgreSQL puts the body of the function in its place.
CREATE OR REPLACE FUNCTION allowed_repeats(
    org_id text, claim_id text, run_id uuid, other_run_id uuid, may_have_grants boolean
) RETURNS SETOF boolean LANGUAGE sql STABLE AS $$
    SELECT true FROM claim_overrides AS override
    WHERE override.run_id IN ($3, $4) AND override.claim_id = $2 AND override.org_id = $1
        AND override.earlier_run_id IN ($3, $4)
    UNION ALL
    SELECT true FROM reversal_grants AS granted
    WHERE $5 AND granted.org_id = $1 AND granted.claim_id = $2
        AND granted.run_id IN ($3, $4) AND granted.reversed_run_id IN ($3, $4)
$$;

-- squawk-ignore ban-drop-function
DROP FUNCTION IF EXISTS reversal_separates (text, text, uuid, timestamptz, uuid);

-- squawk-ignore ban-drop-column
ALTER TABLE export_reversals DROP COLUMN IF EXISTS separates_after;

-- squawk-ignore ban-drop-column
ALTER TABLE export_runs DROP COLUMN IF EXISTS early_finished_at;
