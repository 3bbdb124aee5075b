-- Merge what runs did with their claims, each claim of a run at most once: the highest outcome stands.
-- Only a writer that holds the run's row gets here, so two writers never meet on a claim.
INSERT INTO export_run_claims AS claim (claim_id, org_id, run_id, outcome, skip_reason)
SELECT claim_id, org_id, run_id, outcome::claim_outcome, skip_reason
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::text[])
    AS batch (claim_id, org_id, run_id, outcome, skip_reason)
ON CONFLICT (claim_id, org_id, run_id) DO UPDATE SET
    outcome = greatest(claim.outcome, excluded.outcome),
    skip_reason = least(claim.skip_reason, excluded.skip_reason)
WHERE (claim.outcome, claim.skip_reason) IS DISTINCT FROM
    (greatest(claim.outcome, excluded.outcome), least(claim.skip_reason, excluded.skip_reason))
