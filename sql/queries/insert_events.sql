-- Append to the log what it does not hold yet; returns the ids that were new.
-- In the order of their ids, so that two writers never wait for each other in a circle.
INSERT INTO export_run_events (event_id, event_type, origin, run_id, org_id, occurred_at, payload)
SELECT event_id, $2::text, $3::text, run_id, org_id, occurred_at, payload::json
FROM unnest($1::uuid[], $4::uuid[], $5::text[], $6::timestamptz[], $7::text[])
    AS batch (event_id, run_id, org_id, occurred_at, payload)
ORDER BY event_id
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id
