-- Append to the log the events whose ids it does not hold yet; returns those ids.
-- The runs and the claims are locked first, as lock_runs_and_claims does. An entry gets its position when it is
-- inserted, and that is after all entries were sorted, and so after the locks: the positions of a run are in the order
-- in which its entries took effect. They are inserted in the order of their ids, so that two writers never wait for
-- each other in a circle.
-- $1 event_type
WITH locked AS MATERIALIZED (
    SELECT CASE WHEN (
        SELECT count(pg_advisory_xact_lock(key))
        FROM (
            SELECT DISTINCT hashtextextended(run_id::text, 0) AS key
            FROM unnest($4::uuid[]) AS run (run_id)
            ORDER BY key
        ) AS run
    ) IS NOT NULL THEN (
        SELECT count(pg_advisory_xact_lock(key))
        FROM (
            SELECT DISTINCT hashtextextended(org_id, 1) + (hashtext(claim_id) & 7) AS key
            FROM unnest($8::text[], $9::text[]) AS exported (org_id, claim_ids)
            CROSS JOIN LATERAL unnest(string_to_array(exported.claim_ids, U&'\001F')) AS claim (claim_id)
            ORDER BY key
        ) AS claim
    ) END AS locks
)
INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)
SELECT event_id, $1::text, origin, run_id, org_id, occurred_at, payload::json
FROM unnest($2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::timestamptz[], $7::text[])
    AS batch (event_id, origin, run_id, org_id, occurred_at, payload)
WHERE (SELECT locks FROM locked) IS NOT NULL
ORDER BY event_id
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id
