-- For runs that export claims: the other runs that have exported one of these claims, where neither of the two was
-- allowed to repeat the export by the other; the earliest to finish first, and no more than a few.
-- Each row of the batch brings its claims in one text, separated by U+001F, and says how many other runs of a claim to
-- look at.
-- $5 limit
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
                    SELECT FROM allowed_repeats(mine.org_id, claim.claim_id, mine.run_id, other.run_id, true)
                    OFFSET 0
                )
            LIMIT mine.runs_max
        ) AS other
    ) AS earlier
    JOIN export_runs AS run USING (run_id)
    ORDER BY run.finished_at, run_id
    LIMIT $5::bigint
) AS earlier_run_ids
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) AS mine (run_id, org_id, claim_ids, runs_max)
