-- The organisations that have log entries, after one of them, in their order, with their last entry each. An organisation
-- costs one probe of the index, however long its log is.
-- $1 above_org_id, $2 limit
WITH RECURSIVE organisation AS (
    (
        SELECT org_id, 1 AS number FROM export_run_events
        WHERE org_id COLLATE "C" > $1 ORDER BY org_id COLLATE "C" LIMIT 1
    )
    UNION ALL
    SELECT next.org_id, organisation.number + 1
    FROM organisation
    CROSS JOIN LATERAL (
        SELECT org_id FROM export_run_events AS entry
        WHERE entry.org_id COLLATE "C" > organisation.org_id COLLATE "C" ORDER BY entry.org_id COLLATE "C" LIMIT 1
    ) AS next
    WHERE organisation.number < $2::integer
)
SELECT organisation.org_id, last_entry.position, last_entry.received_at
FROM organisation
CROSS JOIN LATERAL (
    SELECT position, received_at FROM export_run_events AS entry
    WHERE entry.org_id COLLATE "C" = organisation.org_id COLLATE "C"
    ORDER BY entry.org_id COLLATE "C" DESC, position DESC
    LIMIT 1
) AS last_entry
