-- For runs that are about to export claims: which of the claims another run has exported too, where neither of the two
-- was allowed to repeat the export by the other. Claims that the run itself has exported before are left out, so what is
-- told again is not found again.
-- The locks on the claims make sure that of two runs which finish at the same time one sees the other. Each row of the
-- batch brings its claims in one text, and each row that is returned, too, separated by U+001F.
-- Nearly always no run has exported any of the claims. One scan of the index through all claims of a run tells that, at
-- a tenth of the price of one probe per claim. CASE, because it alone says what is evaluated first. Where there are
-- double exports, the first other run is enough, however many have exported the claim. Only where an export was taken
-- back anybody was granted the claim after that.
SELECT mine.run_id, mine.org_id, found.claim_ids
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS mine (run_id, org_id, claim_ids)
CROSS JOIN LATERAL (
    SELECT CASE WHEN EXISTS (
        SELECT FROM export_run_claims AS other
        WHERE other.claim_id = ANY (string_to_array(mine.claim_ids, U&'\001F')) AND other.org_id = mine.org_id
            AND other.run_id <> mine.run_id AND other.outcome >= 'exported'
        OFFSET 0
    ) THEN (
        SELECT string_agg(claim.claim_id, U&'\001F')
        FROM (
            SELECT EXISTS (
                SELECT FROM export_reversals AS reversal
                WHERE reversal.run_id = mine.run_id AND reversal.org_id = mine.org_id
            ) AS is_reversed
            OFFSET 0
        ) AS own_run
        CROSS JOIN unnest(string_to_array(mine.claim_ids, U&'\001F')) AS claim (claim_id)
        WHERE EXISTS (
            SELECT FROM export_run_claims AS other
            WHERE other.claim_id = claim.claim_id AND other.org_id = mine.org_id
                AND other.run_id <> mine.run_id AND other.outcome >= 'exported'
                AND NOT EXISTS (
                    SELECT FROM allowed_repeats(
                        mine.org_id, claim.claim_id, mine.run_id, other.run_id,
                        own_run.is_reversed OR other.outcome = 'reversed'
                    )
                    OFFSET 0
                )
            OFFSET 0
        ) AND NOT EXISTS (
            SELECT FROM export_run_claims AS own
            WHERE own.claim_id = claim.claim_id AND own.org_id = mine.org_id
                AND own.run_id = mine.run_id AND own.outcome >= 'exported'
            OFFSET 0
        )
    ) END AS claim_ids
) AS found
WHERE found.claim_ids IS NOT NULL
