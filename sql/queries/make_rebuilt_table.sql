-- The statements that make an empty table in the schema of a rebuild: with the columns, the checks, the comments, the
-- storage parameters and the grants of a table, and with its indexes under their names.
-- $1 schema, $2 name
WITH relation AS (
    SELECT class.*, format('export_runs_rebuild.%I', relname) AS rebuilt
    FROM pg_class AS class
    WHERE class.oid = format('%I.%I', $1::text, $2::text)::regclass
)
SELECT statement
FROM (
    SELECT 1 AS step,
        format('CREATE TABLE %s (LIKE %I.%I INCLUDING ALL EXCLUDING INDEXES)', rebuilt, $1, relname) AS statement
    FROM relation
    UNION ALL
    SELECT 2, format('ALTER TABLE %s SET (%s)', rebuilt, array_to_string(reloptions, ', '))
    FROM relation
    WHERE reloptions IS NOT NULL
    UNION ALL
    SELECT 2, format('COMMENT ON TABLE %s IS %L', rebuilt, obj_description(oid, 'pg_class'))
    FROM relation
    WHERE obj_description(oid, 'pg_class') IS NOT NULL
    UNION ALL
    SELECT 3, CASE WHEN owner.oid IS NULL
        THEN replace(
            pg_get_indexdef(index.indexrelid), format(' ON %I.%I USING ', $1, relname), format(' ON %s USING ', rebuilt)
        )
        ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', rebuilt, owner.conname, pg_get_constraintdef(owner.oid))
    END
    FROM relation
    JOIN pg_index AS index ON index.indrelid = relation.oid AND index.indisvalid
    LEFT JOIN pg_constraint AS owner ON owner.conindid = index.indexrelid AND owner.conrelid = relation.oid
    UNION ALL
    SELECT 4, format(
        'GRANT %s%s ON %s TO %s%s', privilege_type, ' (' || quote_ident(attname) || ')', rebuilt,
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    )
    FROM (
        SELECT rebuilt, relowner, NULL AS attname, (aclexplode(relacl)).* FROM relation
        UNION ALL
        SELECT rebuilt, relowner, attname, (aclexplode(attacl)).*
        FROM relation JOIN pg_attribute ON attrelid = relation.oid
    ) AS granted
    WHERE grantee <> relowner
) AS making
ORDER BY step
