-- Write what runs did with their claims, for runs that have no claims yet. Each row of the batch brings its claims in
-- one text and their reasons in another, separated by U+001F. The writer holds the lock on the run, so nobody else
-- writes the same rows at the same time.
INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome, skip_reason)
SELECT claim.claim_id, batch.org_id, batch.run_id, batch.outcome::claim_outcome, claim.skip_reason
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS batch (run_id, org_id, outcome, claim_ids, skip_reasons)
CROSS JOIN LATERAL unnest(
    string_to_array(batch.claim_ids, U&'\001F'), string_to_array(batch.skip_reasons, U&'\001F')
) AS claim (claim_id, skip_reason)
