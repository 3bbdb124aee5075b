-- The statement that gives the planner what it needs to know of the tables of a rebuild.
-- $1 name
SELECT 'VACUUM (ANALYZE) ' || string_agg(format('export_runs_rebuild.%I', name), ', ' ORDER BY name)
FROM unnest($1::text[]) AS rebuilt (name)
