-- The amounts of the runs that began in a period which went out, by currency and by the days, months or years of a time
-- zone.
-- $1 start, $2 end, $3 step, $4 time_zone
SELECT
    date_trunc($3::text, run.created_at AT TIME ZONE $4::text)::date AS day, detail.currency, sum(detail.amount) AS amount,
    count(*) AS claims
FROM export_runs AS run
JOIN export_run_claims AS claim USING (run_id, org_id)
JOIN claim_details AS detail USING (run_id, org_id, claim_id)
WHERE run.created_at >= coalesce($1::timestamptz, '-infinity') AND run.created_at < coalesce($2::timestamptz, 'infinity')
    AND detail.event_id = run.finished_event_id AND detail.amount IS NOT NULL AND claim.outcome >= 'exported'
GROUP BY day, detail.currency
ORDER BY day, detail.currency COLLATE "C"
