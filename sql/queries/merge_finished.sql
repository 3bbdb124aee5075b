-- Merge run-finished events, at most one per run, into their runs: the highest status counts, and of the events that
-- have it the facts of the earliest (docs/MERGE_RULES.md). It makes the run where its run-created has not arrived yet.
-- A run of another organisation is left as it is, and is not returned. Also returned is whether the run had claims and
-- leases before this statement; the lock on the run keeps others from adding any. An empty digest stays, and says
-- nothing, until the caller makes it anew.
-- What a run did with its claims is written as well, if it had none yet, as nearly all runs: a plain INSERT costs a third
-- less than a merge. Each row of claims has them in one text and their reasons in another, separated by U+001F.
WITH merged AS (
    INSERT INTO export_runs AS run (
        run_id, org_id, created_at, status, finished_at, finished_event_id, finished_digest, error_code,
        error_detail, artifact_key, artifact_sha256, artifact_size_bytes, external_ack_id, claim_count,
        skipped_count, totals, totals_disagree, has_conflict, imported
    )
    SELECT
        event.run_id, event.org_id, event.finished_at, event.status::run_status, event.finished_at,
        event.finished_event_id, event.finished_digest, event.error_code, event.error_detail,
        event.artifact_key, event.artifact_sha256, event.artifact_size_bytes, event.external_ack_id,
        event.claim_count, event.skipped_count, event.totals::jsonb, event.totals_disagree, event.has_conflict,
        event.imported
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[], $6::bytea[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::bigint[], $12::text[], $13::integer[], $14::integer[],
        $15::text[], $16::boolean[], $17::boolean[], $18::boolean[]
    ) AS event (
        run_id, org_id, status, finished_at, finished_event_id, finished_digest, error_code, error_detail,
        artifact_key, artifact_sha256, artifact_size_bytes, external_ack_id, claim_count, skipped_count,
        totals, totals_disagree, has_conflict, imported
    )
    ORDER BY event.run_id
    ON CONFLICT (run_id) DO UPDATE SET
        created_at = CASE
            WHEN run.created_event_id IS NULL THEN least(run.created_at, excluded.created_at)
            ELSE run.created_at
        END,
        (
            status, finished_at, finished_event_id, finished_digest, error_code, error_detail, artifact_key,
            artifact_sha256, artifact_size_bytes, external_ack_id, claim_count, skipped_count, totals, totals_disagree
        ) = (
            SELECT facts.*
            FROM (VALUES
                (
                    run.status, run.finished_at, run.finished_event_id, run.finished_digest, run.error_code,
                    run.error_detail, run.artifact_key, run.artifact_sha256, run.artifact_size_bytes,
                    run.external_ack_id, run.claim_count, run.skipped_count, run.totals, run.totals_disagree
                ), (
                    excluded.status, excluded.finished_at, excluded.finished_event_id,
                    CASE run.finished_digest WHEN '' THEN '' ELSE excluded.finished_digest END,
                    excluded.error_code, excluded.error_detail,
                    excluded.artifact_key, excluded.artifact_sha256, excluded.artifact_size_bytes,
                    excluded.external_ack_id, excluded.claim_count, excluded.skipped_count, excluded.totals,
                    excluded.totals_disagree
                )
            ) AS facts (status, finished_at, finished_event_id)
            ORDER BY facts.status DESC, facts.finished_at, facts.finished_event_id
            LIMIT 1
        ),
        imported = run.imported OR excluded.imported,
        has_conflict = run.has_conflict OR excluded.has_conflict
            OR coalesce(run.finished_digest <> '' AND run.finished_digest <> excluded.finished_digest, false)
    WHERE run.org_id = excluded.org_id AND run.purged_at IS NULL
    RETURNING
        run_id, org_id, has_conflict, finished_digest = '' AS has_former_digest,
        EXISTS (SELECT FROM export_run_claims AS claim WHERE claim.run_id = run.run_id OFFSET 0) AS had_claims,
        EXISTS (
            SELECT FROM claim_leases AS lease WHERE lease.run_id = run.run_id AND lease.org_id = run.org_id OFFSET 0
        ) AS had_leases
), written AS (
    INSERT INTO export_run_claims (claim_id, org_id, run_id, outcome, skip_reason)
    SELECT claim.claim_id, merged.org_id, merged.run_id, claims.outcome::claim_outcome, claim.skip_reason
    FROM unnest($19::uuid[], $20::text[], $21::text[], $22::text[], $23::text[])
        AS claims (run_id, org_id, outcome, claim_ids, skip_reasons)
    JOIN merged ON merged.run_id = claims.run_id AND NOT merged.had_claims
    CROSS JOIN LATERAL unnest(
        string_to_array(claims.claim_ids, U&'\001F'), string_to_array(claims.skip_reasons, U&'\001F')
    ) AS claim (claim_id, skip_reason)
)
SELECT * FROM merged
