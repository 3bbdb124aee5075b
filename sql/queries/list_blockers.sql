-- The sessions that a session waits for. What another user's session does may be hidden.
SELECT DISTINCT blocker.pid, application_name, backend_type, state,
    extract(epoch FROM clock_timestamp() - xact_start)::float AS transaction_age_s
FROM unnest(pg_blocking_pids($1::integer)) AS blocker (pid)
LEFT JOIN pg_stat_activity USING (pid)
ORDER BY pid
