INSERT INTO peer_runs (run_id, org_id, created_at, status, finished_at, external_ack_id, claim_count)
SELECT run_id, org_id, created_at, status::text, finished_at, external_ack_id, claim_count
FROM export_runs
