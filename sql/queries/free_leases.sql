-- Free what runs hold: these claims of theirs, or all. Runs and organisations come in pairs. In the order in which
-- leases are written, so that nobody who takes an expired one waits for us in a circle.
WITH held AS (
    SELECT lease.claim_id, lease.org_id
    FROM unnest($1::uuid[], $2::text[]) AS holder (run_id, org_id)
    JOIN claim_leases AS lease USING (run_id, org_id)
    WHERE $3::text[] IS NULL OR lease.claim_id IN (SELECT unnest($3::text[]))
    ORDER BY lease.claim_id, lease.org_id
    FOR UPDATE OF lease
), freed AS (
    DELETE FROM claim_leases AS lease USING held
    WHERE lease.claim_id = held.claim_id AND lease.org_id = held.org_id
    RETURNING lease.claim_id
)
SELECT count(*) FROM freed
