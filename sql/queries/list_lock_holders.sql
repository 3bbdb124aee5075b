-- The sessions that have used the log or one of these tables, in a transaction that goes on for longer than so many
-- seconds. What another user's session does may be hidden.
-- $1 schema, $2 relname, $3 longer_than_s
SELECT DISTINCT
    pid, application_name, backend_type, state, extract(epoch FROM clock_timestamp() - xact_start)::float AS transaction_age_s
FROM pg_locks
JOIN pg_class AS class ON class.oid = relation AND (
    ($1::text::regnamespace = relnamespace AND relname = ANY ($2::text[])) OR class.oid = 'export_run_events'::regclass
)
JOIN pg_stat_activity USING (pid)
WHERE granted AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (xact_start IS NULL OR xact_start < clock_timestamp() - make_interval(secs => $3::float))
ORDER BY pid
