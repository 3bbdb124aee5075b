INSERT INTO peer_claims (claim_id, org_id, run_id, outcome)
SELECT claim_id, $2, $3, 'exported'
FROM unnest($1::text[]) AS claim_id
ON CONFLICT (claim_id, org_id, run_id) DO NOTHING
