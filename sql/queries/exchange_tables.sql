-- The statements that put the tables of a rebuild in the place of those of the same names.
-- $1 schema, $2 name
SELECT statement
FROM unnest($2::text[]) AS exchanged (name)
CROSS JOIN LATERAL (
    VALUES
        (1, format('DROP TABLE %I.%I', $1::text, name)),
        (2, format('ALTER TABLE export_runs_rebuild.%I SET SCHEMA %I', name, $1))
) AS exchange (step, statement)
ORDER BY step, name
