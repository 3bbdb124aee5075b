-- The claims of the runs that began in a period by outcome and by the days, months or years of a time zone.
-- $1 start, $2 end, $3 step, $4 time_zone
SELECT date_trunc($3::text, run.created_at AT TIME ZONE $4::text)::date AS day, claim.outcome::text AS outcome, count(*) AS claims
FROM export_runs AS run
JOIN export_run_claims AS claim USING (run_id, org_id)
WHERE run.created_at >= coalesce($1::timestamptz, '-infinity') AND run.created_at < coalesce($2::timestamptz, 'infinity')
GROUP BY day, claim.outcome
ORDER BY day, claim.outcome
