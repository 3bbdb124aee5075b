-- Write what runs that had no claims yet did with theirs. Claims and reasons come as texts, separated by U+001F.
-- Only a writer that holds the run's row gets here, so nobody else writes them at the same time.
INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome, skip_reason)
SELECT claim.claim_id, batch.org_id, batch.run_id, batch.outcome::claim_outcome, claim.skip_reason
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS batch (run_id, org_id, outcome, claim_ids, skip_reasons)
CROSS JOIN LATERAL unnest(
    string_to_array(batch.claim_ids, U&'\001F'), string_to_array(batch.skip_reasons, U&'\001F')
) AS claim (claim_id, skip_reason)
