-- The transactions that have begun to write to the log, and have not ended: each of them may have a place in its order
-- that nobody sees yet.
SELECT DISTINCT virtualtransaction AS writer
FROM pg_locks
WHERE locktype = 'relation' AND relation = 'export_run_events'::regclass AND mode = 'RowExclusiveLock' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
