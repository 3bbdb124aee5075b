-- Claims that the runs of a period were granted although an earlier run had exported them.
-- $1 start, $2 end
SELECT * FROM (
    SELECT
        org_id, run_id, override.claim_id, override.earlier_run_id, override.approved_by, override.reason, override.granted_at
    FROM export_runs AS run
    JOIN claim_overrides AS override USING (run_id, org_id)
    WHERE run.created_at >= coalesce($1::timestamptz, '-infinity') AND run.created_at < coalesce($2::timestamptz, 'infinity')
    UNION ALL
    SELECT
        override.org_id, override.run_id, override.claim_id, override.earlier_run_id, override.approved_by, override.reason,
        override.granted_at
    FROM claim_overrides AS override
    WHERE override.granted_at >= coalesce($1::timestamptz, '-infinity')
        AND override.granted_at < coalesce($2::timestamptz, 'infinity')
        AND NOT EXISTS (SELECT FROM export_runs AS run WHERE run.run_id = override.run_id)
) AS override
ORDER BY org_id, granted_at, run_id, claim_id, earlier_run_id, approved_by COLLATE "C"
