-- Keep others from ending, hiding or purging these runs, and from reserving for them, until the transaction ends;
-- whether they exist yet or not. In one order, so that two writers never wait for each other in a circle.
SELECT count(pg_advisory_xact_lock(key))
FROM (
    SELECT DISTINCT hashtextextended(run_id::text, 0) AS key FROM unnest($1::uuid[]) AS run (run_id) ORDER BY key
) AS run
