-- The claims of the runs that began in a period.
-- $1 start, $2 end
SELECT
    run.org_id, run.run_id, claim.claim_id, claim.outcome::text AS outcome, detail.amount, detail.currency, detail.voucher_id,
    detail.voucher_url, claim.skip_reason, detail.skip_code
FROM export_runs AS run
JOIN export_run_claims AS claim USING (run_id, org_id)
LEFT JOIN claim_details AS detail ON detail.run_id = run.run_id AND detail.event_id = run.finished_event_id
    AND detail.claim_id = claim.claim_id
WHERE run.created_at >= coalesce($1::timestamptz, '-infinity') AND run.created_at < coalesce($2::timestamptz, 'infinity')
ORDER BY run.org_id, run.created_at, run.run_id, claim.claim_id
