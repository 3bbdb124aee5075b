-- The runs other than these that have exported these claims. Each organisation comes with its claims in one text,
-- separated by U+001F. An organisation may be there several times.
-- $3 left_out, $4 limit
SELECT DISTINCT request.org_id, claim.claim_id, claim.run_id
FROM unnest($1::text[], $2::text[]) AS request (org_id, claim_ids)
CROSS JOIN LATERAL (
    SELECT claim_id, run_id FROM export_run_claims
    WHERE claim_id = ANY (string_to_array(request.claim_ids, U&'\001F')) AND org_id = request.org_id
        AND outcome = 'exported'
    OFFSET 0
) AS claim
WHERE claim.run_id <> ALL ($3::uuid[])
LIMIT $4::bigint
