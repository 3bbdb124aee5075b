-- What waits for somebody, each kind counted up to a bound: by an index, so that it costs little whatever the tables hold.
-- $1 older_than_s, of stale runs; $2 counted_max
SELECT
    (SELECT count(*) FROM (SELECT FROM alerts ORDER BY org_id, event_id LIMIT $2::bigint) AS alert)
        AS unpublished_alerts,
    (SELECT count(*) FROM (
        SELECT FROM double_exported_claims WHERE resolved_at IS NULL ORDER BY org_id, claim_id LIMIT $2::bigint
    ) AS record) AS unresolved_double_exports,
    (SELECT count(*) FROM (
        SELECT FROM export_runs
        WHERE status = 'pending' AND deleted_at IS NULL AND purged_at IS NULL
            AND created_at < clock_timestamp() - make_interval(secs => $1::integer)
        ORDER BY created_at, run_id
        LIMIT $2::bigint
    ) AS run) AS stale_runs
