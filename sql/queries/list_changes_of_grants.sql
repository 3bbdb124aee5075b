-- The statements that give the roles of the service what they may do with the tables and sequences of this role's own in
-- the current schema, and take away what else they were given. None where nothing differs, or the roles are not there.
-- A table that no line names is for all three to read.
WITH writes (table_name, privileges) AS (
    VALUES
        -- The log is append-only: what it has cannot be changed by any role but the owner, and not by that one either
        -- as long as the trigger is there.
        ('export_run_events', '{INSERT}'::text[]),
        ('export_runs', '{INSERT, UPDATE}'),
        ('export_run_claims', '{INSERT, UPDATE}'),
        ('claim_details', '{INSERT}'),
        ('claim_leases', '{INSERT, UPDATE, DELETE}'),
        ('claim_overrides', '{INSERT, DELETE}'),
        ('double_exported_claims', '{INSERT, UPDATE}'),
        ('repeated_claims', '{INSERT}'),
        ('alerts', '{INSERT, UPDATE, DELETE}'),
        ('export_reversals', '{INSERT}'),
        ('claim_reversals', '{INSERT}'),
        ('reversal_grants', '{INSERT, DELETE}')
),
relation AS (
    SELECT oid, relname, relkind, relacl, relowner
    FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'S')
        AND pg_has_role(relowner, 'USAGE')
),
wanted AS (
    SELECT relation.oid, role.oid AS grantee, privilege
    FROM relation
    CROSS JOIN pg_roles AS role
    CROSS JOIN LATERAL (
        SELECT 'SELECT' AS privilege
        WHERE relkind = 'r' AND rolname IN ('export_runs_worker', 'export_runs_auditor', 'export_runs_operator')
        UNION ALL
        SELECT unnest(privileges) FROM writes WHERE table_name = relname AND rolname = 'export_runs_worker'
        UNION ALL
        SELECT 'USAGE' WHERE relkind = 'S' AND rolname = 'export_runs_worker'
        UNION ALL
        -- A report has a position in the log.
        SELECT 'SELECT' WHERE relkind = 'S' AND rolname IN ('export_runs_auditor', 'export_runs_operator')
    ) AS granted
),
stored AS (
    SELECT relation.oid, grantee, privilege_type AS privilege
    FROM relation
    CROSS JOIN LATERAL aclexplode(relacl)
    WHERE grantee <> 0 AND grantee <> relowner
        AND pg_get_userbyid(grantee) IN ('export_runs_worker', 'export_runs_auditor', 'export_runs_operator')
)
SELECT format(
    '%s %s ON %s %s %s %I',
    verb, string_agg(privilege, ', ' ORDER BY privilege), CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
    oid::regclass, preposition, pg_get_userbyid(grantee)
) AS statement
FROM (
    (SELECT 'GRANT' AS verb, 'TO' AS preposition, * FROM (TABLE wanted EXCEPT TABLE stored) AS missing)
    UNION ALL
    (SELECT 'REVOKE', 'FROM', * FROM (TABLE stored EXCEPT TABLE wanted) AS surplus)
) AS change
JOIN relation USING (oid)
GROUP BY verb, preposition, oid, relname, relkind, grantee
ORDER BY relname, statement
