-- Take the next alerts of organisations out of the way of other workers, for some seconds. What is not removed or
-- postponed by then can be taken again: its worker has died. They are chosen once: a plan that chose again for each row
-- would take more than the limit.
-- $2 limit, $3 taken_s
WITH due AS MATERIALIZED (
    SELECT next.org_id, next.event_id
    FROM unnest($1::text[]) AS turn (org_id)
    CROSS JOIN LATERAL (
        SELECT org_id, event_id FROM alerts
        WHERE alerts.org_id = turn.org_id AND next_attempt_at <= statement_timestamp()
        ORDER BY next_attempt_at, event_id
        LIMIT $2::bigint
        FOR UPDATE SKIP LOCKED
    ) AS next
)
UPDATE alerts
SET attempts = attempts + 1, next_attempt_at = statement_timestamp() + make_interval(secs => $3::float8)
FROM due
WHERE alerts.org_id = due.org_id AND alerts.event_id = due.event_id
RETURNING alerts.*
