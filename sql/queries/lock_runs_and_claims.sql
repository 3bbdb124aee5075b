-- Keep others from ending, hiding or purging these runs, and from exporting or reserving these claims, until the
-- transaction ends. The runs first, in one order on every path; then the claims, which share 8 locks per organisation,
-- by their hash. CASE, because it alone says what is evaluated first.
SELECT CASE WHEN (
    SELECT count(pg_advisory_xact_lock(key))
    FROM (
        SELECT DISTINCT hashtextextended(run_id::text, 0) AS key FROM unnest($1::uuid[]) AS run (run_id) ORDER BY key
    ) AS run
) IS NOT NULL THEN (
    SELECT count(pg_advisory_xact_lock(key))
    FROM (
        SELECT DISTINCT hashtextextended(org_id, 1) + (hashtext(claim_id) & 7) AS key
        FROM unnest($2::text[], $3::text[]) AS batch (org_id, claim_ids)
        CROSS JOIN LATERAL unnest(string_to_array(batch.claim_ids, U&'\001F')) AS claim (claim_id)
        ORDER BY key
    ) AS claim
) END
