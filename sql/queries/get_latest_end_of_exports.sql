-- The time, and when the last of the other runs ended that have exported one of these claims.
-- $1 run_id, $2 org_id, $3 claim_ids
SELECT
    clock_timestamp() AS now,
    (
        SELECT max(run.finished_at)
        FROM export_run_claims AS other
        JOIN export_runs AS run USING (run_id)
        WHERE other.claim_id = ANY ($3::text[]) AND other.org_id = $2 AND other.run_id <> $1
            AND other.outcome >= 'exported'
    ) AS latest_end
