-- A page of what the log has of a claim, in the order of the log, after an entry or from the start: the entries that
-- name it, and the starts, ends, deletions and returns of every run that carried it, has it on lease or is named beside
-- it. Entries that were logged before claim ids had a canonical form may name it in other spellings.
-- $1 org_id, $2 claim_id, $3 after_event_id, $4 limit
WITH named AS MATERIALIZED (
    SELECT event_id, event_type, origin, run_id, occurred_at, received_at, position
    FROM export_run_events
    WHERE claims_of_log_entry(org_id, payload) @> ARRAY[$1::text || chr(31) || $2::text]
        AND event_type NOT IN ('run-created', 'run-finished', 'run-deleted', 'run-unpurged')
    UNION
    SELECT entry.*
    FROM respelled_claims AS respelled
    CROSS JOIN LATERAL (
        SELECT event_id, event_type, origin, run_id, occurred_at, received_at, position
        FROM export_run_events
        WHERE claims_of_log_entry(org_id, payload) @> ARRAY[$1 || chr(31) || respelled.spelling]
            AND event_type NOT IN ('run-created', 'run-finished', 'run-deleted', 'run-unpurged')
        OFFSET 0
    ) AS entry
    WHERE respelled.org_id = $1 AND respelled.claim_id = $2
)
SELECT event_id, event_type, origin, run_id, occurred_at, received_at
FROM (
    SELECT * FROM named
    UNION ALL
    SELECT entry.*
    FROM (
        SELECT run_id FROM export_run_claims WHERE claim_id = $2 AND org_id = $1
        UNION
        SELECT run_id FROM claim_leases WHERE claim_id = $2 AND org_id = $1
        UNION
        SELECT run_id FROM named
    ) AS run
    CROSS JOIN LATERAL (
        SELECT event_id, event_type, origin, run_id, occurred_at, received_at, position
        FROM export_run_events
        WHERE run_id = run.run_id AND org_id = $1
            AND event_type IN ('run-created', 'run-finished', 'run-deleted', 'run-unpurged')
        OFFSET 0
    ) AS entry
) AS entry
WHERE position > coalesce((SELECT position FROM export_run_events WHERE $3::uuid = event_id), -9223372036854775808)
ORDER BY position
LIMIT $4::bigint
