-- A page of an organisation's double exports above a claim, in the order of the claims. Of the two halves, open and
-- resolved, each has an index of its own, so a page costs the same whatever is filtered out.
-- $1 org_id, $2 above_claim_id, $3 resolved, $4 limit
SELECT * FROM (
    (
        SELECT * FROM double_exported_claims
        WHERE org_id = $1 AND claim_id > $2 AND resolved_at IS NULL AND $3::boolean IS NOT TRUE
        ORDER BY claim_id
        LIMIT $4::bigint
    )
    UNION ALL
    (
        SELECT * FROM double_exported_claims
        WHERE org_id = $1 AND claim_id > $2 AND resolved_at IS NOT NULL AND $3::boolean IS NOT FALSE
        ORDER BY claim_id
        LIMIT $4::bigint
    )
) AS record
ORDER BY claim_id
LIMIT $4::bigint
