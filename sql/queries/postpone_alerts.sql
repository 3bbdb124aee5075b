-- Have alerts wait, each for a time of its own, before they are taken again.
UPDATE alerts
SET next_attempt_at = statement_timestamp() + make_interval(secs => postponed.delay_s)
FROM unnest($1::text[], $2::uuid[], $3::float8[]) AS postponed (org_id, event_id, delay_s)
WHERE alerts.org_id = postponed.org_id AND alerts.event_id = postponed.event_id
