-- Record that claims went out twice. A claim that has a record already was exported by one more run: if somebody has
-- resolved the record, it is open again. Each row of the batch brings its claims in one text, separated by U+001F.
INSERT INTO double_exported_claims (org_id, claim_id, detected_at, last_joined_at)
SELECT batch.org_id, claim.claim_id, min(batch.joined_at), max(batch.joined_at)
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS batch (org_id, claim_ids, joined_at)
CROSS JOIN LATERAL unnest(string_to_array(batch.claim_ids, U&'\001F')) AS claim (claim_id)
GROUP BY batch.org_id, claim.claim_id
ORDER BY batch.org_id COLLATE "C", claim.claim_id COLLATE "C"
ON CONFLICT (org_id, claim_id) DO UPDATE SET
    last_joined_at = excluded.last_joined_at, resolved_at = NULL, resolved_by = NULL, note = NULL
