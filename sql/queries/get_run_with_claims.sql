-- One run and its claims, as they were at one moment, and how many bytes the texts of its claims and overrides come to.
-- The claims of a run with more than $3 bytes are null: they do not fit into a reply. An override counts for 100 bytes
-- more than its texts, because a run may have very many that have short ones.
SELECT
    run.*,
    size.bytes,
    CASE WHEN size.bytes <= $3::bigint THEN ARRAY(
        SELECT claim_id FROM export_run_claims AS claim
        WHERE claim.run_id = run.run_id AND outcome <> 'skipped'
        ORDER BY claim_id
    ) END AS claim_ids,
    CASE WHEN size.bytes <= $3::bigint THEN ARRAY(
        SELECT claim_id FROM export_run_claims AS claim
        WHERE claim.run_id = run.run_id AND outcome = 'skipped'
        ORDER BY claim_id
    ) END AS skipped_claim_ids,
    CASE WHEN size.bytes <= $3::bigint THEN ARRAY(
        SELECT skip_reason FROM export_run_claims AS claim
        WHERE claim.run_id = run.run_id AND outcome = 'skipped'
        ORDER BY claim_id
    ) END AS skip_reasons,
    ARRAY(
        SELECT ARRAY[claim_id, skip_code] FROM claim_details AS details
        WHERE details.run_id = run.run_id AND details.event_id = run.finished_event_id AND skip_code IS NOT NULL
    ) AS skip_codes
FROM export_runs AS run
CROSS JOIN LATERAL (
    SELECT
        coalesce((
            SELECT sum(octet_length(claim_id) + coalesce(octet_length(skip_reason), 0))
            FROM export_run_claims AS claim
            WHERE claim.run_id = run.run_id
        ), 0)
        + coalesce((
            SELECT sum(octet_length(claim_id) + octet_length(reason) + octet_length(approved_by) + 100)
            FROM claim_overrides AS override
            WHERE override.run_id = run.run_id AND override.org_id = run.org_id
        ), 0) AS bytes
) AS size
WHERE run_id = $1 AND purged_at IS NULL AND ($2::text IS NULL OR org_id = $2)
