-- The statements that drop what there is of the schema of a rebuild: its tables of these names, then the schema itself.
-- They refuse if anything else is in it.
-- $1 relname
SELECT statement
FROM (
    SELECT 1 AS step, format('DROP TABLE export_runs_rebuild.%I', relname) AS statement
    FROM pg_class
    WHERE relnamespace = to_regnamespace('export_runs_rebuild') AND relkind = 'r' AND relname = ANY ($1::text[])
    UNION ALL
    SELECT 2, 'DROP SCHEMA export_runs_rebuild' WHERE to_regnamespace('export_runs_rebuild') IS NOT NULL
) AS dropping
ORDER BY step
