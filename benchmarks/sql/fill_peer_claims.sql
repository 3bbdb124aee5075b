INSERT INTO peer_claims (claim_id, org_id, run_id, outcome)
SELECT claim_id, org_id, run_id, outcome::text
FROM export_run_claims
ORDER BY claim_id
