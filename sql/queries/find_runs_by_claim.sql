-- The runs that carried a claim, newest first: of one organisation, or of all organisations where $2 is null. Of the
-- two halves one finds nothing; so each needs only one probe of the primary key.
SELECT *
FROM (
    SELECT run.*, claim.outcome AS claim_outcome
    FROM export_run_claims AS claim
    JOIN export_runs AS run USING (run_id)
    WHERE claim.claim_id = $1 AND $2::text IS NOT NULL AND claim.org_id = $2
    UNION ALL
    SELECT run.*, claim.outcome AS claim_outcome
    FROM export_run_claims AS claim
    JOIN export_runs AS run USING (run_id)
    WHERE claim.claim_id = $1 AND $2::text IS NULL
) AS run
ORDER BY created_at DESC, run_id DESC
LIMIT $3::bigint
