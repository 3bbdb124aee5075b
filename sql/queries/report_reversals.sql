-- Exports that were taken back: of the runs of a period, or in that period.
-- $1 start, $2 end
SELECT
    reversal.org_id, reversal.run_id, claim.claim_id, reversal.reversed_at, reversal.of_whole_run, reversal.reversed_by,
    reversal.approved_by, reversal.reason, reversal.external_reversal_id
FROM export_reversals AS reversal
JOIN claim_reversals AS claim USING (org_id, event_id)
LEFT JOIN export_runs AS run ON run.run_id = reversal.run_id
WHERE (
    run.created_at >= coalesce($1::timestamptz, '-infinity') AND run.created_at < coalesce($2::timestamptz, 'infinity')
) OR (
    reversal.reversed_at >= coalesce($1::timestamptz, '-infinity')
    AND reversal.reversed_at < coalesce($2::timestamptz, 'infinity')
)
ORDER BY reversal.org_id, reversal.reversed_at, reversal.event_id, claim.claim_id
