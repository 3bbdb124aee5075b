-- One run and its claims, of one moment.
SELECT
    run.*,
    ARRAY(
        SELECT claim_id FROM export_run_claims AS claim
        WHERE claim.run_id = run.run_id AND outcome <> 'skipped'
        ORDER BY claim_id
    ) AS claim_ids,
    ARRAY(
        SELECT claim_id FROM export_run_claims AS claim
        WHERE claim.run_id = run.run_id AND outcome = 'skipped'
        ORDER BY claim_id
    ) AS skipped_claim_ids,
    ARRAY(
        SELECT skip_reason FROM export_run_claims AS claim
        WHERE claim.run_id = run.run_id AND outcome = 'skipped'
        ORDER BY claim_id
    ) AS skip_reasons
FROM export_runs AS run
WHERE run_id = $1 AND ($2::text IS NULL OR org_id = $2)
