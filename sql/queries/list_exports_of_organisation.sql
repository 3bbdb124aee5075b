-- The claims of an organisation that are exported, in the order of their ids: whether a run that began in a period
-- exported them, and what they came to in each export where that is known. The period ends before its end.
-- $1 org_id, $2 start, $3 end
SELECT
    claim.claim_id, bool_or(run.created_at >= $2::timestamptz AND run.created_at < $3::timestamptz) AS is_of_period,
    array_agg(DISTINCT detail.currency || ' ' || detail.amount::text)
        FILTER (WHERE detail.currency IS NOT NULL AND detail.amount IS NOT NULL) AS amounts
FROM export_runs AS run
JOIN export_run_claims AS claim USING (run_id)
LEFT JOIN claim_details AS detail ON detail.run_id = run.run_id AND detail.event_id = run.finished_event_id
    AND detail.claim_id = claim.claim_id
WHERE run.org_id = $1 AND claim.outcome = 'exported'
GROUP BY claim.claim_id
ORDER BY claim.claim_id
