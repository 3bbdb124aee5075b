-- Count the claims of runs whose events name different claims.
UPDATE export_runs AS run
SET claim_count = counts.claim_count, skipped_count = counts.skipped_count
FROM unnest($1::uuid[]) AS conflicting (run_id)
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE outcome <> 'skipped') AS claim_count,
        count(*) FILTER (WHERE outcome = 'skipped') AS skipped_count
    FROM export_run_claims
    WHERE run_id = conflicting.run_id
    HAVING count(*) > 0
    OFFSET 0
) AS counts
WHERE run.run_id = conflicting.run_id
