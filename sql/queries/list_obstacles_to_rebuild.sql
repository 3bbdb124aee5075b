-- What speaks against putting other tables in the place of these, in sentences: what a new table would lose, and what
-- this role may not do.
-- $1 schema, $2 relname
WITH relation AS (
    SELECT class.oid, relname, relowner
    FROM pg_class AS class
    WHERE $1::text::regnamespace = relnamespace AND relkind = 'r' AND relname = ANY ($2::text[])
)
SELECT DISTINCT format('%s uses the table %I', pg_describe_object(classid, objid, 0), relname) AS obstacle
FROM relation
JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = relation.oid
WHERE classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass)
    OR (classid = 'pg_trigger'::regclass AND NOT (SELECT tgisinternal FROM pg_trigger WHERE oid = objid))
    OR (classid = 'pg_constraint'::regclass AND (SELECT contype = 'f' FROM pg_constraint WHERE oid = objid))
UNION ALL
SELECT format('the publication %I publishes the table %I', pubname, tablename)
FROM pg_publication_tables JOIN relation ON relname = tablename
WHERE $1 = schemaname
UNION ALL
SELECT format('the table %I belongs to the role %I: run the command as that role', relname, pg_get_userbyid(relowner))
FROM relation
WHERE pg_get_userbyid(relowner) <> current_user
UNION ALL
SELECT format('the role %I may not create a schema in the database', current_user)
WHERE NOT has_database_privilege(current_database(), 'CREATE')
UNION ALL
SELECT format('the role %I may not create a table in the schema %I', current_user, $1)
WHERE NOT has_schema_privilege($1, 'CREATE')
ORDER BY obstacle
