-- Take the next alerts of an organisation out of the way of other workers, for some seconds. What is not removed or
-- postponed by then can be taken again: its worker has died. They are chosen once: a plan that chose again for each row
-- would take more than the limit.
-- $1 org_id, $2 limit, $3 taken_s
WITH due AS MATERIALIZED (
    SELECT org_id, event_id FROM alerts
    WHERE org_id = $1 AND next_attempt_at <= statement_timestamp()
    ORDER BY next_attempt_at, event_id
    LIMIT $2::bigint
    FOR UPDATE SKIP LOCKED
)
UPDATE alerts
SET attempts = attempts + 1, next_attempt_at = statement_timestamp() + make_interval(secs => $3::float8)
FROM due
WHERE alerts.org_id = due.org_id AND alerts.event_id = due.event_id
RETURNING alerts.*
