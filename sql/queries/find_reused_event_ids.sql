-- Of events whose ids are in the log already: those that the log holds with another type or another text.
-- $3 event_type
SELECT batch.event_id, logged.event_type, logged.payload::text AS logged_payload, batch.payload
FROM unnest($1::uuid[], $2::text[]) AS batch (event_id, payload)
JOIN export_run_events AS logged USING (event_id)
WHERE (logged.event_type, logged.payload::text) IS DISTINCT FROM ($3::text, batch.payload)
