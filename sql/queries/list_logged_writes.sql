-- The log entries of what clients asked for a run, of one kind, the newest first. $1 run_id, $2 org_id, $3 event_type
SELECT event_id FROM export_run_events
WHERE run_id = $1 AND org_id = $2 AND event_type = $3 AND origin = 'request'
ORDER BY position DESC
LIMIT 100
