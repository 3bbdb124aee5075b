-- Free what runs hold: these claims of theirs, or all. In the order in which leases are written, so that nobody who
-- takes an expired one waits for us in a circle.
WITH held AS (
    SELECT claim_id, org_id FROM claim_leases
    WHERE run_id = ANY ($1::uuid[]) AND ($2::text IS NULL OR org_id = $2)
        AND ($3::text[] IS NULL OR claim_id = ANY ($3))
    ORDER BY claim_id, org_id
    FOR UPDATE
), freed AS (
    DELETE FROM claim_leases AS lease USING held
    WHERE lease.claim_id = held.claim_id AND lease.org_id = held.org_id
    RETURNING lease.claim_id
)
SELECT count(*) FROM freed
