-- The organisations with alerts in the outbox, after one of them, in their order: so they take turns; and whether an
-- alert of theirs is due. Each costs two probes of an index, however many alerts it has.
-- $1 after_org_id, $2 limit
WITH RECURSIVE organisation AS (
    (SELECT org_id, 1 AS number FROM alerts WHERE org_id > $1 ORDER BY org_id LIMIT 1)
    UNION ALL
    SELECT next.org_id, organisation.number + 1
    FROM organisation
    CROSS JOIN LATERAL (
        SELECT org_id FROM alerts WHERE alerts.org_id > organisation.org_id ORDER BY org_id LIMIT 1
    ) AS next
    WHERE organisation.number < $2::integer
)
SELECT org_id, EXISTS (
    SELECT FROM alerts
    WHERE alerts.org_id = organisation.org_id AND next_attempt_at <= statement_timestamp()
    OFFSET 0
) AS has_due_alert
FROM organisation
ORDER BY number
