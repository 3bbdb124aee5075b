-- The log of organisations in its order, above a place in it: so many entries, and of those as many as have so many
-- bytes as they are stored, but one at least.
-- $1 above_org_id, $2 above_position, $3 last_org_id, $4 entries_max, $5 stored_bytes_max
SELECT
    position, event_id, event_type, origin, run_id, org_id, occurred_at, received_at, payload::text AS payload
FROM (
    SELECT
        *,
        sum(pg_column_size(payload)) OVER (ORDER BY org_id COLLATE "C", position) - pg_column_size(payload)
            AS stored_bytes_before
    FROM (
        SELECT * FROM export_run_events
        WHERE (org_id COLLATE "C", position) > ($1::text, $2::bigint)
            AND org_id COLLATE "C" <= $3::text
        ORDER BY org_id COLLATE "C", position
        LIMIT $4::bigint
    ) AS entry
) AS entry
WHERE stored_bytes_before < $5::bigint
ORDER BY org_id COLLATE "C", position
