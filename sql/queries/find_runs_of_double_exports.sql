-- The runs that make claims double exports: those that named the claim twice, and those that exported it as another run
-- did, where neither of the two was allowed to repeat the export by the other. For each claim their number and the
-- first of them, the earliest to finish first, and since when reversals have left at most one export of it.
-- Nearly every claim has neither overrides nor grants after a reversal, and then its runs are all that exported it, if
-- there are several.
-- The claims come in one text, separated by U+001F. Of a claim no more than $3 runs are looked at, and
-- no more than $4 are named; all where these are null.
-- $1 org_id, $2 claim_ids, $3 counted_max, $4 shown_max
SELECT claim.claim_id, found.*
FROM unnest(string_to_array($2::text, U&'\001F')) AS claim (claim_id)
CROSS JOIN coalesce($4::integer, 2147483647) AS shown (max)
CROSS JOIN LATERAL (
    SELECT
        ARRAY(
            SELECT run_id FROM repeated_claims AS repeated
            WHERE repeated.claim_id = claim.claim_id AND repeated.org_id = $1
        ) AS repeaters,
        EXISTS (
            SELECT FROM claim_overrides AS override
            WHERE override.claim_id = claim.claim_id AND override.org_id = $1
            OFFSET 0
        ) OR EXISTS (
            SELECT FROM reversal_grants AS granted
            WHERE granted.org_id = $1 AND granted.claim_id = claim.claim_id
            OFFSET 0
        ) AS has_allowed_repeats,
        1 < (
            SELECT count(*)
            FROM (
                SELECT FROM export_run_claims AS exported
                WHERE exported.claim_id = claim.claim_id AND exported.org_id = $1 AND exported.outcome >= 'exported'
                LIMIT 2
            ) AS exported
        ) AS has_several_runs
    OFFSET 0
) AS claim_state
CROSS JOIN LATERAL (
    SELECT
        count(*) AS run_count,
        coalesce((array_agg(run_id ORDER BY finished_at, run_id))[:shown.max], '{}') AS run_ids,
        coalesce((array_agg(status::text ORDER BY finished_at, run_id))[:shown.max], '{}') AS statuses,
        coalesce((array_agg(finished_at ORDER BY finished_at, run_id))[:shown.max], '{}') AS finish_times,
        coalesce((array_agg(reversed_at ORDER BY finished_at, run_id))[:shown.max], '{}') AS reversal_times,
        CASE WHEN count(*) - count(reversed_at) <= 1 AND NOT bool_or(is_repeated AND reversed_at IS NULL) THEN greatest(
            max(reversed_at) FILTER (WHERE is_repeated), (array_agg(reversed_at ORDER BY reversed_at))[count(*) - 1]
        ) END AS ended_at,
        coalesce(
            (array_agg(run_id ORDER BY finished_at, run_id) FILTER (WHERE is_repeated))[:shown.max], '{}'
        ) AS repeated_in_run_ids
    FROM (
        SELECT
            mine.run_id, run.status, run.finished_at, mine.run_id = ANY (claim_state.repeaters) AS is_repeated,
            CASE WHEN mine.outcome = 'reversed' THEN (
                SELECT reversal.reversed_at
                FROM claim_reversals AS reversed
                JOIN export_reversals AS reversal
                    ON reversal.org_id = reversed.org_id AND reversal.event_id = reversed.event_id
                WHERE reversed.org_id = $1 AND reversed.claim_id = mine.claim_id
                    AND (reversed.run_id = mine.run_id) IS TRUE -- else it might read all reversals of the run
            ) END AS reversed_at
        FROM export_run_claims AS mine
        JOIN export_runs AS run USING (run_id)
        WHERE mine.claim_id = claim.claim_id AND mine.org_id = $1 AND mine.outcome >= 'exported'
            AND (mine.run_id = ANY (claim_state.repeaters) OR CASE WHEN claim_state.has_allowed_repeats THEN EXISTS (
                SELECT FROM export_run_claims AS other
                WHERE other.claim_id = mine.claim_id AND other.org_id = mine.org_id
                    AND other.run_id <> mine.run_id AND other.outcome >= 'exported'
                    AND NOT EXISTS (
                        SELECT FROM allowed_repeats($1, claim.claim_id, mine.run_id, other.run_id, true)
                        OFFSET 0
                    )
                OFFSET 0
            ) ELSE claim_state.has_several_runs END)
        LIMIT $3::bigint
    ) AS run
) AS found
