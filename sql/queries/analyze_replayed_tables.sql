-- The statement that lets PostgreSQL look at the temporary tables of these names, so that it plans for what is in them.
-- $1 names
SELECT 'ANALYZE ' || string_agg(format('pg_temp.%I', name), ', ' ORDER BY name) AS statement
FROM unnest($1::text[]) AS name
