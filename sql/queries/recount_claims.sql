-- Count the claims of runs whose events name different claims.
UPDATE export_runs AS run
SET claim_count = counts.claim_count, skipped_count = counts.skipped_count
FROM (
    SELECT
        run_id,
        count(*) FILTER (WHERE outcome <> 'skipped') AS claim_count,
        count(*) FILTER (WHERE outcome = 'skipped') AS skipped_count
    FROM export_run_claims
    WHERE run_id = ANY ($1::uuid[])
    GROUP BY run_id
) AS counts
WHERE run.run_id = counts.run_id
