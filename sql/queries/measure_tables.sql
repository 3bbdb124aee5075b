-- How many bytes tables take, with their indexes.
-- $1 schema, $2 relname
SELECT coalesce(sum(pg_total_relation_size(class.oid)), 0)::bigint AS bytes
FROM pg_class AS class
WHERE $1::text::regnamespace = relnamespace AND relkind = 'r' AND relname = ANY ($2::text[])
