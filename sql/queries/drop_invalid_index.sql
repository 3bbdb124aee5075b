-- The statement that drops an index of this name, if there is one and it was never finished.
SELECT format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', namespace.nspname, class.relname)
FROM pg_class AS class
JOIN pg_index AS index ON index.indexrelid = class.oid
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE class.relname = $1::text AND namespace.nspname = current_schema() AND NOT index.indisvalid
