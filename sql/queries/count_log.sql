-- About how many entries the log has; exactly how many an organisation has, where $1 is not null.
SELECT CASE
    WHEN $1::text IS NOT NULL THEN (SELECT count(*) FROM export_run_events WHERE org_id COLLATE "C" = $1)
    ELSE (SELECT greatest(0, reltuples)::bigint FROM pg_class WHERE oid = 'export_run_events'::regclass)
END AS entry_count
