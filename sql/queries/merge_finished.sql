-- Merge run-finished events, at most one a run, into their runs: the highest status stands, and of those that
-- have it the earliest event's facts. Makes the run where its run-created is still on its way.
-- A run of another organisation is left alone and not returned. Also returns what the run had when this began: claims,
-- leases. Its lock (lock_runs) sees to it that nobody adds any meanwhile.
INSERT INTO export_runs AS run (
    run_id, org_id, created_at, status, finished_at, finished_event_id, finished_digest, error_code,
    error_detail, artifact_key, artifact_sha256, artifact_size_bytes, external_ack_id, claim_count,
    skipped_count
)
SELECT
    event.run_id, event.org_id, event.finished_at, event.status::run_status, event.finished_at,
    event.finished_event_id, event.finished_digest, event.error_code, event.error_detail,
    event.artifact_key, event.artifact_sha256, event.artifact_size_bytes, event.external_ack_id,
    event.claim_count, event.skipped_count
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[], $6::bytea[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::bigint[], $12::text[], $13::integer[], $14::integer[]
) AS event (
    run_id, org_id, status, finished_at, finished_event_id, finished_digest, error_code, error_detail,
    artifact_key, artifact_sha256, artifact_size_bytes, external_ack_id, claim_count, skipped_count
)
ORDER BY event.run_id
ON CONFLICT (run_id) DO UPDATE SET
    created_at = CASE
        WHEN run.created_event_id IS NULL THEN least(run.created_at, excluded.created_at)
        ELSE run.created_at
    END,
    (
        status, finished_at, finished_event_id, finished_digest, error_code, error_detail, artifact_key,
        artifact_sha256, artifact_size_bytes, external_ack_id, claim_count, skipped_count
    ) = (
        SELECT facts.*
        FROM (VALUES
            (
                run.status, run.finished_at, run.finished_event_id, run.finished_digest, run.error_code,
                run.error_detail, run.artifact_key, run.artifact_sha256, run.artifact_size_bytes,
                run.external_ack_id, run.claim_count, run.skipped_count
            ), (
                excluded.status, excluded.finished_at, excluded.finished_event_id,
                excluded.finished_digest, excluded.error_code, excluded.error_detail,
                excluded.artifact_key, excluded.artifact_sha256, excluded.artifact_size_bytes,
                excluded.external_ack_id, excluded.claim_count, excluded.skipped_count
            )
        ) AS facts (status, finished_at, finished_event_id)
        ORDER BY facts.status DESC, facts.finished_at, facts.finished_event_id
        LIMIT 1
    ),
    has_conflict = run.has_conflict OR coalesce(run.finished_digest <> excluded.finished_digest, false)
WHERE run.org_id = excluded.org_id
RETURNING
    run_id, org_id, has_conflict,
    EXISTS (SELECT FROM export_run_claims AS claim WHERE claim.run_id = run.run_id OFFSET 0) AS had_claims,
    EXISTS (
        SELECT FROM claim_leases AS lease WHERE lease.run_id = run.run_id AND lease.org_id = run.org_id OFFSET 0
    ) AS had_leases
