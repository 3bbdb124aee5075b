-- Append to the log the events whose ids it does not hold yet; returns those ids.
-- The runs are locked first, as lock_runs does. An entry gets its position when it is inserted, and that is after all
-- entries were sorted, and so after the locks: the positions of a run are in the order in which its entries took effect.
-- They are inserted in the order of their ids, so that two writers never wait for each other in a circle.
-- $1 event_type
WITH run_lock AS MATERIALIZED (
    SELECT count(pg_advisory_xact_lock(key)) AS locks
    FROM (
        SELECT DISTINCT hashtextextended(run_id::text, 0) AS key FROM unnest($4::uuid[]) AS run (run_id) ORDER BY key
    ) AS run
)
INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)
SELECT event_id, $1::text, origin, run_id, org_id, occurred_at, payload::json
FROM unnest($2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::timestamptz[], $7::text[])
    AS batch (event_id, origin, run_id, org_id, occurred_at, payload)
WHERE (SELECT locks FROM run_lock) IS NOT NULL
ORDER BY event_id
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id
