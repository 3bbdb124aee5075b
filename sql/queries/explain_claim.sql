-- How a claim stands and because of what, as it was at one moment; at most a number of rows of each kind. A run is one
-- that carried the claim: those that exported it come first, the earliest to finish first, then the latest of the
-- others. A purge is one of a run that named the claim, in whatever spelling, and was not brought back; the last in the
-- order of the log come first.
-- $1 org_id, $2 claim_id, $3 limit
(
    SELECT
        'run' AS kind, run_id, run.finished_event_id AS event_id, run.finished_at AS time,
        claim.outcome::text AS outcome, claim.skip_reason AS reason, run.has_conflict,
        NULL::uuid AS earlier_run_id, NULL AS approved_by, NULL::bigint AS fencing_token, false AS has_expired,
        NULL AS reversed_by, NULL AS external_reversal_id
    FROM export_run_claims AS claim
    JOIN export_runs AS run USING (run_id)
    WHERE claim.claim_id = $2 AND claim.org_id = $1
    ORDER BY
        claim.outcome = 'exported' DESC,
        CASE WHEN claim.outcome = 'exported' THEN run.finished_at END,
        run.finished_at DESC,
        run_id
    LIMIT $3::bigint
)
UNION ALL
SELECT
    'lease', run_id, NULL, expires_at, NULL, NULL, false, NULL, NULL, fencing_token, expires_at <= clock_timestamp(),
    NULL, NULL
FROM claim_leases
WHERE claim_id = $2 AND org_id = $1
UNION ALL
(
    SELECT 'override', run_id, NULL, granted_at, NULL, reason, false, earlier_run_id, approved_by, NULL, false,
        NULL, NULL
    FROM claim_overrides
    WHERE claim_id = $2 AND org_id = $1
    ORDER BY granted_at DESC, run_id, earlier_run_id, approved_by
    LIMIT $3
)
UNION ALL
(
    SELECT
        'reversal', reversal.run_id, reversal.event_id, reversal.reversed_at, NULL, reversal.reason, false, NULL,
        reversal.approved_by, NULL, false, reversal.reversed_by, reversal.external_reversal_id
    FROM claim_reversals AS claim
    JOIN export_reversals AS reversal ON reversal.org_id = claim.org_id AND reversal.event_id = claim.event_id
    WHERE claim.org_id = $1 AND claim.claim_id = $2
    ORDER BY reversal.reversed_at DESC, reversal.run_id
    LIMIT $3
)
UNION ALL
(
    SELECT 'purge', entry.run_id, entry.event_id, entry.occurred_at, NULL, NULL, false, NULL, NULL, NULL, false,
        NULL, NULL
    FROM (
        SELECT run_id, event_id, occurred_at, position
        FROM export_run_events
        WHERE claims_of_log_entry(org_id, payload) @> ARRAY[$1 || chr(31) || $2]
            AND event_type NOT IN ('run-created', 'run-finished', 'run-deleted', 'run-unpurged')
            AND event_type = 'run-purged'
        UNION
        SELECT purge.run_id, purge.event_id, purge.occurred_at, purge.position
        FROM respelled_claims AS respelled
        CROSS JOIN LATERAL (
            SELECT run_id, event_id, occurred_at, position
            FROM export_run_events
            WHERE claims_of_log_entry(org_id, payload) @> ARRAY[$1 || chr(31) || respelled.spelling]
                AND event_type NOT IN ('run-created', 'run-finished', 'run-deleted', 'run-unpurged')
                AND event_type = 'run-purged'
            OFFSET 0
        ) AS purge
        WHERE respelled.org_id = $1 AND respelled.claim_id = $2
    ) AS entry
    JOIN export_runs AS run USING (run_id)
    WHERE run.purged_at IS NOT NULL
    ORDER BY entry.position DESC
    LIMIT $3
)
