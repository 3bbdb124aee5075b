-- What the runs of a period say of themselves, to compare the tables of a report with: how many they are, their counts
-- of claims, and how many of them have counts that differ from their claims.
-- $1 start, $2 end
SELECT
    count(*) AS runs, coalesce(sum(run.claim_count), 0)::bigint AS claims_carried,
    coalesce(sum(run.skipped_count), 0)::bigint AS claims_skipped,
    coalesce(sum(run.reversed_count), 0)::bigint AS claims_reversed,
    count(*) FILTER (
        WHERE (run.claim_count, run.skipped_count, run.reversed_count)
            IS DISTINCT FROM (claim.carried, claim.skipped, claim.reversed)
    ) AS runs_that_differ
FROM export_runs AS run
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE outcome <> 'skipped') AS carried, count(*) FILTER (WHERE outcome = 'skipped') AS skipped,
        count(*) FILTER (WHERE outcome = 'reversed') AS reversed
    FROM export_run_claims AS claim
    WHERE claim.run_id = run.run_id
) AS claim
WHERE run.created_at >= coalesce($1::timestamptz, '-infinity') AND run.created_at < coalesce($2::timestamptz, 'infinity')
