-- The newest reversals of exports of a run, each with the number of claims that it took back.
-- $1 run_id, $2 org_id, $3 limit
SELECT
    reversal.event_id, reversal.reversed_at, reversal.reason, reversal.reversed_by, reversal.approved_by,
    reversal.external_reversal_id, claim.claim_count
FROM (
    SELECT event_id, count(*) AS claim_count
    FROM claim_reversals
    WHERE run_id = $1 AND org_id = $2
    GROUP BY event_id
) AS claim
JOIN export_reversals AS reversal USING (event_id)
WHERE reversal.run_id = $1 AND reversal.org_id = $2
ORDER BY reversal.reversed_at DESC, reversal.event_id
LIMIT $3::bigint
