-- Note which claims of these runs another run has exported too, where no override names that. The locks on the claims
-- make sure that of two runs which finish at the same time one sees the other. One scan of the index goes through all
-- claims of a run.
INSERT INTO double_exports (org_id, claim_id, first_run_id, second_run_id, found_by)
SELECT mine.org_id, other.claim_id, other.run_id, mine.run_id, 'another-run'
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS mine (run_id, org_id, claim_ids)
CROSS JOIN LATERAL (
    SELECT claim_id, run_id FROM export_run_claims AS claim
    WHERE claim.claim_id = ANY (string_to_array(mine.claim_ids, U&'\001F')) AND claim.org_id = mine.org_id
        AND claim.run_id <> mine.run_id AND claim.outcome = 'exported'
        AND NOT EXISTS (
            SELECT FROM claim_overrides AS override
            WHERE override.run_id = mine.run_id AND override.claim_id = claim.claim_id
                AND override.org_id = mine.org_id AND override.earlier_run_id = claim.run_id
            OFFSET 0
        )
        AND NOT EXISTS (
            SELECT FROM claim_overrides AS override
            WHERE override.run_id = claim.run_id AND override.claim_id = claim.claim_id
                AND override.org_id = mine.org_id AND override.earlier_run_id = mine.run_id
            OFFSET 0
        )
    OFFSET 0
) AS other
ORDER BY other.claim_id, mine.org_id, other.run_id
ON CONFLICT DO NOTHING
