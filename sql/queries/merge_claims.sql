-- Merge what runs did with their claims, each claim of a run at most once: the highest outcome counts
-- (docs/MERGE_RULES.md). Each row of the batch brings its claims in one text and their reasons in another, separated by
-- U+001F. The writer holds the lock on the run.
INSERT INTO export_run_claims AS claim (claim_id, org_id, run_id, outcome, skip_reason)
SELECT item.claim_id, batch.org_id, batch.run_id, batch.outcome::claim_outcome, item.skip_reason
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS batch (run_id, org_id, outcome, claim_ids, skip_reasons)
CROSS JOIN LATERAL unnest(
    string_to_array(batch.claim_ids, U&'\001F'), string_to_array(batch.skip_reasons, U&'\001F')
) AS item (claim_id, skip_reason)
ON CONFLICT (claim_id, org_id, run_id) DO UPDATE SET
    outcome = greatest(claim.outcome, excluded.outcome),
    skip_reason = least(claim.skip_reason, excluded.skip_reason)
WHERE (claim.outcome, claim.skip_reason) IS DISTINCT FROM
    (greatest(claim.outcome, excluded.outcome), least(claim.skip_reason, excluded.skip_reason))
