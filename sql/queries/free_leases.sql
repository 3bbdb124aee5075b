-- Free the leases of runs: those of some claims, or all where $3 is null. Each run comes with its organisation. Rows
-- are locked in the order in which write_leases writes them, so that two writers never wait for each other in a circle.
-- $3 claim_ids
WITH locked_lease AS (
    SELECT lease.claim_id, lease.org_id
    FROM unnest($1::uuid[], $2::text[]) AS holder (run_id, org_id)
    JOIN claim_leases AS lease USING (run_id, org_id)
    WHERE $3::text[] IS NULL OR lease.claim_id IN (SELECT unnest($3::text[]))
    ORDER BY lease.claim_id, lease.org_id
    FOR UPDATE OF lease
), freed_claim AS (
    DELETE FROM claim_leases AS lease USING locked_lease
    WHERE lease.claim_id = locked_lease.claim_id AND lease.org_id = locked_lease.org_id
    RETURNING lease.claim_id
)
SELECT count(*) FROM freed_claim
