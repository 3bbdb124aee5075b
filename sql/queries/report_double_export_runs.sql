-- All exports of the claims of report_double_exports, whether or not an override or a reversal explains them.
-- $1 start, $2 end
SELECT
    record.org_id, record.claim_id, export.run_id, export.created_at, export.finished_at, export.outcome, export.amount,
    export.currency,
    EXISTS (
        SELECT FROM repeated_claims AS repeated
        WHERE repeated.claim_id = record.claim_id AND repeated.org_id = record.org_id AND repeated.run_id = export.run_id
    ) AS is_repeated_in_run,
    EXISTS (
        SELECT FROM claim_overrides AS override
        WHERE override.claim_id = record.claim_id AND override.org_id = record.org_id AND override.run_id = export.run_id
    ) AS has_override
FROM double_exported_claims AS record
CROSS JOIN LATERAL (
    SELECT
        run.run_id, run.created_at, run.finished_at, claim.outcome::text AS outcome, detail.amount, detail.currency,
        bool_or(
            run.created_at >= coalesce($1::timestamptz, '-infinity')
            AND run.created_at < coalesce($2::timestamptz, 'infinity')
        ) OVER () AS is_of_period
    FROM export_run_claims AS claim
    JOIN export_runs AS run USING (run_id, org_id)
    LEFT JOIN claim_details AS detail ON detail.run_id = run.run_id AND detail.event_id = run.finished_event_id
        AND detail.claim_id = claim.claim_id
    WHERE claim.claim_id = record.claim_id AND claim.org_id = record.org_id AND claim.outcome >= 'exported'
) AS export
WHERE export.is_of_period
ORDER BY record.org_id, record.claim_id, export.finished_at, export.run_id
