-- The claims of the runs that began in a period, by the system that they went to and by outcome.
-- $1 start, $2 end
SELECT run.target_system, claim.outcome::text AS outcome, count(*) AS claims
FROM export_runs AS run
JOIN export_run_claims AS claim USING (run_id, org_id)
WHERE run.created_at >= coalesce($1::timestamptz, '-infinity') AND run.created_at < coalesce($2::timestamptz, 'infinity')
GROUP BY run.target_system, claim.outcome
ORDER BY run.target_system COLLATE "C" NULLS LAST, claim.outcome
