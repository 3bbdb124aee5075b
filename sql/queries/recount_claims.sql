-- Count the claims of runs whose events name different ones.
UPDATE export_runs AS run
SET claim_count = counted.claim_count, skipped_count = counted.skipped_count
FROM (
    SELECT
        run_id,
        count(*) FILTER (WHERE outcome <> 'skipped') AS claim_count,
        count(*) FILTER (WHERE outcome = 'skipped') AS skipped_count
    FROM export_run_claims
    WHERE run_id = ANY ($1::uuid[])
    GROUP BY run_id
) AS counted
WHERE run.run_id = counted.run_id
