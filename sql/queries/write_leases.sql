-- Lease claims to a run, those without a lease and those with one; all with one token, a new one where none is given.
-- The claims come as texts, separated by U+001F. Nobody else leases a claim without a lease, for its lock is ours: to
-- insert it plainly costs a third less. A lease that was there may have been freed since.
WITH token AS MATERIALIZED (
    SELECT coalesce($5::bigint, nextval('claim_fencing_tokens')) AS fencing_token,
        clock_timestamp() + make_interval(secs => $6::integer) AS expires_at
), added AS (
    INSERT INTO claim_leases (claim_id, org_id, run_id, expires_at, fencing_token)
    SELECT claim_id, $1::text, $2::uuid, expires_at, fencing_token
    FROM unnest(string_to_array($3::text, U&'\001F')) AS free (claim_id) CROSS JOIN token
), replaced AS (
    INSERT INTO claim_leases (claim_id, org_id, run_id, expires_at, fencing_token)
    SELECT claim_id, $1::text, $2::uuid, expires_at, fencing_token
    FROM unnest(string_to_array($4::text, U&'\001F')) AS leased (claim_id) CROSS JOIN token
    ORDER BY claim_id COLLATE "C" -- as free_leases does
    ON CONFLICT (claim_id, org_id) DO UPDATE SET
        run_id = excluded.run_id, expires_at = excluded.expires_at, fencing_token = excluded.fencing_token
)
SELECT fencing_token, expires_at FROM token
