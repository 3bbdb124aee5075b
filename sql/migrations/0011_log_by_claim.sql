-- no transaction
-- The log entries that name a claim, but for those of the runs that carried it: those are found by their runs.

-- Each claim that an entry of the log names, with its organisation before it. It never fails: an entry that it cannot
-- read is logged all the same. PostgreSQL reads no JSON that has the character U+0000 anywhere.
CREATE OR REPLACE FUNCTION claims_of_log_entry(org_id text, payload json) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN payload::text !~ '(?<!\\)(\\\\)*\\u0000' THEN ARRAY(
        SELECT DISTINCT org_id || chr(31) || claim_id
        FROM (
            SELECT payload ->> 'claimId'
            UNION ALL
            SELECT json_array_elements_text(list)
            FROM (VALUES (payload -> 'claimIds'), (payload -> 'freedClaims')) AS claims (list)
            WHERE json_typeof(list) = 'array'
            UNION ALL
            SELECT json_array_elements(list) ->> 'claimId'
            FROM (VALUES (payload -> 'overridden'), (payload -> 'taken')) AS grants (list)
            WHERE json_typeof(list) = 'array'
        ) AS named (claim_id)
        WHERE org_id IS NOT NULL AND char_length(claim_id) BETWEEN 1 AND 200
    ) END
$$;

CREATE INDEX CONCURRENTLY IF NOT EXISTS export_run_events_claims
    ON export_run_events USING gin (claims_of_log_entry(org_id, payload))
    WHERE event_type NOT IN ('run-created', 'run-finished', 'run-deleted', 'run-unpurged');
