-- Give a run the digest of its end, and whether its events contradict each other.
-- $1 run_id, $2 finished_digest, $3 has_conflict
UPDATE export_runs SET finished_digest = $2, has_conflict = $3 WHERE run_id = $1
