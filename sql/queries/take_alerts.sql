-- Take the next alerts of an organisation out of the way of other workers, for some seconds. What is not removed or
-- postponed by then can be taken again: its worker has died.
-- $1 org_id, $2 limit, $3 taken_s
UPDATE alerts
SET attempts = attempts + 1, next_attempt_at = statement_timestamp() + make_interval(secs => $3::float8)
WHERE org_id = $1 AND event_id IN (
    SELECT event_id FROM alerts
    WHERE org_id = $1 AND next_attempt_at <= statement_timestamp()
    ORDER BY next_attempt_at, event_id
    LIMIT $2::bigint
    FOR UPDATE SKIP LOCKED
)
RETURNING *
