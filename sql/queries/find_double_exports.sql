-- For runs that are about to export claims: which of the claims another run has exported too, where neither of the two
-- was allowed to repeat the export by the other; and the first few of these runs to finish. Claims that the run itself
-- has exported before are left out, so what is told again is not found again.
-- The locks on the claims make sure that of two runs which finish at the same time one sees the other. Each row of the
-- batch brings its claims in one text, separated by U+001F, and each row that is returned, too. It says how many other
-- runs of a claim to look at.
-- Nearly always no run has exported any of the claims. One scan of the index through all claims of a run tells that, at
-- a tenth of the price of one probe per claim. Nearly always, too, the run has no claims yet, nobody has overridden
-- anything, and no export was taken back: each is looked up once per run, before it is looked up per claim. CASE,
-- because it alone says what is evaluated first.
-- $5 limit
SELECT mine.run_id, mine.org_id, found.claim_ids, ARRAY(
    SELECT earlier.run_id
    FROM (SELECT DISTINCT unnest(found.run_ids) AS run_id) AS earlier
    JOIN export_runs AS run USING (run_id)
    ORDER BY run.finished_at, run_id
    LIMIT $5::bigint
) AS earlier_run_ids
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) AS mine (run_id, org_id, claim_ids, runs_max)
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM export_run_claims AS other
        WHERE other.claim_id = ANY (string_to_array(mine.claim_ids, U&'\001F')) AND other.org_id = mine.org_id
            AND other.run_id <> mine.run_id AND other.outcome >= 'exported'
        OFFSET 0
    ) AS are_there
    OFFSET 0
) AS exports
CROSS JOIN LATERAL (
    SELECT
        string_agg(DISTINCT claim.claim_id, U&'\001F') AS claim_ids,
        array_agg(DISTINCT other.run_id) AS run_ids
    FROM (
        SELECT
            EXISTS (
                SELECT FROM export_run_claims AS own WHERE own.run_id = mine.run_id OFFSET 0
            ) AS had_claims,
            EXISTS (
                SELECT FROM claim_overrides AS override
                WHERE override.claim_id = ANY (string_to_array(mine.claim_ids, U&'\001F'))
                    AND override.org_id = mine.org_id
                OFFSET 0
            ) AS has_overrides,
            EXISTS (
                SELECT FROM export_reversals AS reversal
                WHERE reversal.run_id = mine.run_id AND reversal.org_id = mine.org_id
                OFFSET 0
            ) AS is_reversed
        WHERE exports.are_there
        OFFSET 0
    ) AS own_run
    CROSS JOIN unnest(string_to_array(mine.claim_ids, U&'\001F')) AS claim (claim_id)
    CROSS JOIN LATERAL (
        SELECT other.run_id
        FROM export_run_claims AS other
        WHERE other.claim_id = claim.claim_id AND other.org_id = mine.org_id
            AND other.run_id <> mine.run_id AND other.outcome >= 'exported'
            AND CASE WHEN own_run.has_overrides OR own_run.is_reversed OR other.outcome = 'reversed' THEN NOT EXISTS (
                SELECT FROM allowed_repeats(
                    mine.org_id, claim.claim_id, mine.run_id, other.run_id,
                    own_run.is_reversed OR other.outcome = 'reversed'
                )
                OFFSET 0
            ) ELSE true END
        LIMIT mine.runs_max
    ) AS other
    WHERE CASE WHEN own_run.had_claims THEN NOT EXISTS (
        SELECT FROM export_run_claims AS own
        WHERE own.claim_id = claim.claim_id AND own.org_id = mine.org_id
            AND own.run_id = mine.run_id AND own.outcome >= 'exported'
        OFFSET 0
    ) ELSE true END
) AS found
WHERE found.claim_ids IS NOT NULL
