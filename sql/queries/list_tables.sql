-- The tables of a schema, without those of some names.
SELECT class.relname::text AS name
FROM pg_class AS class
WHERE relnamespace = $1::text::regnamespace AND relkind = 'r' AND relname <> ALL ($2::text[])
ORDER BY relname
