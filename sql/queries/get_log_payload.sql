-- What an entry of the log says.
SELECT payload::text AS payload FROM export_run_events WHERE event_id = $1
