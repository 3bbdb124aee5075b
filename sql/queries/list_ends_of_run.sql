-- The entries of the log that end a run, the earliest first. $1 run_id, $2 org_id, $3 limit
SELECT event_id, event_type, origin, run_id, occurred_at, received_at FROM export_run_events
WHERE run_id = $1 AND org_id = $2 AND event_type = 'run-finished'
ORDER BY occurred_at, event_id
LIMIT $3::bigint
