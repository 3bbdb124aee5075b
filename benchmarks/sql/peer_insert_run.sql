INSERT INTO peer_runs (run_id, org_id, created_at, status, finished_at, external_ack_id, claim_count)
VALUES ($1, $2, $3, $4, $3, $5, $6)
ON CONFLICT (run_id) DO NOTHING
