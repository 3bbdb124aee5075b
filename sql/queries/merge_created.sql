-- Merge run-created events, at most one per run, into their runs: the facts of the earliest event count
-- (docs/MERGE_RULES.md). A run of another organisation is left as it is, and is not returned.
INSERT INTO export_runs AS run (
    run_id, org_id, created_at, created_event_id, created_digest, triggered_by, format, target_system,
    period_start, period_end, retry_of_run_id, override_reason, override_approved_by, trigger, scope, imported
)
SELECT *
FROM unnest(
    $1::uuid[], $2::text[], $3::timestamptz[], $4::uuid[], $5::bytea[], $6::text[], $7::text[], $8::text[],
    $9::date[], $10::date[], $11::uuid[], $12::text[], $13::text[], $14::text[], $15::text[], $16::boolean[]
) AS event (
    run_id, org_id, created_at, created_event_id, created_digest, triggered_by, format, target_system,
    period_start, period_end, retry_of_run_id, override_reason, override_approved_by, trigger, scope, imported
)
ORDER BY event.run_id
ON CONFLICT (run_id) DO UPDATE SET
    (
        created_at, created_event_id, created_digest, triggered_by, format, target_system,
        period_start, period_end, retry_of_run_id, override_reason, override_approved_by, trigger, scope
    ) = (
        SELECT facts.*
        FROM (VALUES
            (
                run.created_at, run.created_event_id, run.created_digest, run.triggered_by, run.format,
                run.target_system, run.period_start, run.period_end, run.retry_of_run_id,
                run.override_reason, run.override_approved_by, run.trigger, run.scope
            ), (
                excluded.created_at, excluded.created_event_id, excluded.created_digest,
                excluded.triggered_by, excluded.format, excluded.target_system, excluded.period_start,
                excluded.period_end, excluded.retry_of_run_id, excluded.override_reason,
                excluded.override_approved_by, excluded.trigger, excluded.scope
            )
        ) AS facts (created_at, created_event_id)
        WHERE facts.created_event_id IS NOT NULL
        ORDER BY facts.created_at, facts.created_event_id
        LIMIT 1
    ),
    imported = run.imported OR excluded.imported,
    has_conflict = run.has_conflict OR coalesce(run.created_digest <> excluded.created_digest, false)
WHERE run.org_id = excluded.org_id AND run.purged_at IS NULL
RETURNING run_id, has_conflict
