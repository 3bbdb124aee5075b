-- How a claim stands and because of what, as it was at one moment; at most a number of rows of each kind. A run is one
-- that carried the claim: those that exported it come first, the earliest to finish first, then the latest of the
-- others. A purge is one of a run that named the claim and was not brought back.
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
    FROM export_run_events AS entry
    JOIN export_runs AS run USING (run_id)
    WHERE claims_of_log_entry(entry.org_id, entry.payload) @> ARRAY[$1 || chr(31) || $2]
        AND entry.event_type NOT IN ('run-created', 'run-finished', 'run-deleted', 'run-unpurged')
        AND entry.event_type = 'run-purged'
        AND run.purged_at IS NOT NULL
    ORDER BY entry.occurred_at DESC, entry.event_id
    LIMIT $3
)
