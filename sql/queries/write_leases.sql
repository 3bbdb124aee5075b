-- Lease claims to a run: those without a lease, and those with one. All get the same token, a new one where $5 is
-- null. Both lists come as texts, separated by U+001F. The writer holds the locks on the claims, so nobody else leases
-- a claim that has no lease: a plain INSERT will do, and costs a third less. The other leases may have been freed
-- meanwhile, because to free a lease needs no lock on its claim. After a restore nothing is leased, and no row returned,
-- until the leases that it forgot are over.
-- $1 org_id, $2 run_id, $3 free_claim_ids, $4 leased_claim_ids, $5 fencing_token, $6 ttl_s
WITH token AS MATERIALIZED (
    SELECT coalesce($5::bigint, nextval('claim_fencing_tokens')) AS fencing_token,
        clock_timestamp() + make_interval(secs => $6::integer) AS expires_at
    WHERE NOT EXISTS (SELECT FROM database_identity WHERE grants_held_until > clock_timestamp())
), new_lease AS (
    INSERT INTO claim_leases (claim_id, org_id, run_id, expires_at, fencing_token)
    SELECT claim_id, $1::text, $2::uuid, expires_at, fencing_token
    FROM unnest(string_to_array($3::text, U&'\001F')) AS free (claim_id) CROSS JOIN token
), replaced_lease AS (
    INSERT INTO claim_leases (claim_id, org_id, run_id, expires_at, fencing_token)
    SELECT claim_id, $1::text, $2::uuid, expires_at, fencing_token
    FROM unnest(string_to_array($4::text, U&'\001F')) AS leased (claim_id) CROSS JOIN token
    ORDER BY claim_id COLLATE "C" -- the order of free_leases
    ON CONFLICT (claim_id, org_id) DO UPDATE SET
        run_id = excluded.run_id, expires_at = excluded.expires_at, fencing_token = excluded.fencing_token
)
SELECT fencing_token, expires_at FROM token
