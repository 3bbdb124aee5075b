-- Keep others from ending, hiding or purging these runs, and from reserving for them, until the transaction ends
-- (sql/advisory_locks.md). The runs need not exist yet. Locks are taken in the order of their numbers, so that two
-- writers never wait for each other in a circle.
SELECT count(pg_advisory_xact_lock(key))
FROM (
    SELECT DISTINCT hashtextextended(run_id::text, 0) AS key FROM unnest($1::uuid[]) AS run (run_id) ORDER BY key
) AS run
