-- For each run that began in a period and each currency: what its exporter told, and what its claims come to that went
-- out, those that were reversed afterwards included. Counts of several totals that no bigint holds are cut: such totals
-- disagree in any case.
-- $1 start, $2 end
WITH run AS (
    SELECT * FROM export_runs
    WHERE created_at >= coalesce($1::timestamptz, '-infinity') AND created_at < coalesce($2::timestamptz, 'infinity')
), told AS (
    SELECT
        run_id, total ->> 0 AS currency, least(sum((total ->> 1)::bigint), 9223372036854775807)::bigint AS claims,
        sum((total ->> 2)::numeric) AS amount
    FROM run CROSS JOIN LATERAL jsonb_array_elements(run.totals) AS total
    GROUP BY run_id, currency
), counted AS (
    SELECT
        run_id, detail.currency, count(*) AS claims, sum(detail.amount) AS amount,
        count(*) FILTER (WHERE claim.outcome = 'reversed') AS reversed_claims,
        coalesce(sum(detail.amount) FILTER (WHERE claim.outcome = 'reversed'), 0) AS reversed_amount
    FROM run
    JOIN export_run_claims AS claim USING (run_id, org_id)
    JOIN claim_details AS detail USING (run_id, org_id, claim_id)
    WHERE detail.event_id = run.finished_event_id AND detail.amount IS NOT NULL AND claim.outcome >= 'exported'
    GROUP BY run_id, detail.currency
)
SELECT
    run.org_id, run_id, currency, told.claims AS told_claims, told.amount AS told_amount,
    coalesce(counted.claims, 0) AS exported_claims, coalesce(counted.amount, 0) AS exported_amount,
    coalesce(counted.reversed_claims, 0) AS reversed_claims, coalesce(counted.reversed_amount, 0) AS reversed_amount
FROM told
FULL JOIN counted USING (run_id, currency)
JOIN run USING (run_id)
ORDER BY run.org_id, run.created_at, run_id, currency COLLATE "C"
