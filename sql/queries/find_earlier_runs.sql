-- For runs that export claims: the other runs that have exported one of these claims, where no override names the two
-- runs and no reversal separates them; the earliest to finish first, and no more than a few.
-- Each row of the batch brings its claims in one text, separated by U+001F, and says how many other runs of a claim to look at, and when the run ended.
-- $6 limit
SELECT mine.run_id, mine.org_id, ARRAY(
    SELECT earlier.run_id
    FROM (
        SELECT DISTINCT other.run_id
        FROM unnest(string_to_array(mine.claim_ids, U&'\001F')) AS claim (claim_id)
        CROSS JOIN LATERAL (
            SELECT run_id FROM export_run_claims AS other
            WHERE other.claim_id = claim.claim_id AND other.org_id = mine.org_id
                AND other.run_id <> mine.run_id AND other.outcome >= 'exported'
                AND NOT EXISTS (
                    SELECT FROM claim_overrides AS override
                    WHERE override.run_id IN (mine.run_id, other.run_id)
                        AND override.claim_id = claim.claim_id AND override.org_id = mine.org_id
                        AND override.earlier_run_id IN (mine.run_id, other.run_id)
                    OFFSET 0
                )
                AND CASE WHEN own_end.is_reversed OR other.outcome = 'reversed' THEN NOT reversal_separates(
                    mine.org_id, claim.claim_id, mine.run_id, own_end.finished_at, other.run_id
                ) ELSE true END
            LIMIT mine.runs_max
        ) AS other
    ) AS earlier
    JOIN export_runs AS run USING (run_id)
    ORDER BY run.finished_at, run_id
    LIMIT $6::bigint
) AS earlier_run_ids
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[])
    AS mine (run_id, org_id, claim_ids, runs_max, finished_at)
CROSS JOIN LATERAL (
    SELECT
        EXISTS (
            SELECT FROM export_reversals AS reversal
            WHERE reversal.run_id = mine.run_id AND reversal.org_id = mine.org_id
        ) AS is_reversed,
        least(mine.finished_at, (
            SELECT coalesce(run.early_finished_at, run.finished_at) FROM export_runs AS run
            WHERE run.run_id = mine.run_id
        )) AS finished_at
    OFFSET 0
) AS own_end
