-- What the log has of a run that its row is made from, in its order: all of it, or what comes below a position.
-- $1 run_id, $2 org_id, $3 below_position
SELECT event_id, event_type, origin, run_id, org_id, occurred_at, payload::text AS payload FROM export_run_events
WHERE run_id = $1 AND org_id = $2 AND event_type IN ('run-created', 'run-finished', 'run-deleted')
    AND ($3::bigint IS NULL OR position < $3)
ORDER BY position
