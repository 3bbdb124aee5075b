-- The claims that a run has exported, some of them or all, each with the reversal that took it back, if one did. IS TRUE,
-- because it might else read all reversals of the run for each claim.
-- $1 run_id, $2 org_id, $3 claim_ids
SELECT
    claim.claim_id, claim.outcome = 'reversed' AS is_reversed,
    of_whole_run, reason, reversed_by, approved_by, external_reversal_id
FROM export_run_claims AS claim
LEFT JOIN LATERAL (
    SELECT reversal.*
    FROM claim_reversals AS reversed
    JOIN export_reversals AS reversal
        ON reversal.org_id = reversed.org_id AND reversal.event_id = reversed.event_id
    WHERE reversed.org_id = claim.org_id AND reversed.claim_id = claim.claim_id
        AND (reversed.run_id = claim.run_id) IS TRUE
    OFFSET 0
) AS reversal ON true
WHERE claim.run_id = $1 AND claim.org_id = $2 AND claim.outcome >= 'exported'
    AND ($3::text[] IS NULL OR claim.claim_id = ANY ($3::text[]))
ORDER BY claim.claim_id
