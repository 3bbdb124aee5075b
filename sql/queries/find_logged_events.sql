-- Those of some events that the log has.
SELECT event_id FROM export_run_events WHERE event_id = ANY ($1::uuid[])
