-- Lease claims to a run, or renew its leases: all with one token, a new one where none is given.
WITH token AS MATERIALIZED (
    SELECT coalesce($4::bigint, nextval('claim_fencing_tokens')) AS fencing_token,
        clock_timestamp() + make_interval(secs => $5::integer) AS expires_at
), written AS (
    INSERT INTO claim_leases (claim_id, org_id, run_id, expires_at, fencing_token)
    SELECT claim_id, $1::text, $2::uuid, expires_at, fencing_token
    FROM unnest($3::text[]) AS granted (claim_id) CROSS JOIN token
    ORDER BY claim_id COLLATE "C" -- as free_leases does
    ON CONFLICT (claim_id, org_id) DO UPDATE SET
        run_id = excluded.run_id, expires_at = excluded.expires_at, fencing_token = excluded.fencing_token
)
SELECT fencing_token, expires_at FROM token
