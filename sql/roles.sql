-- The roles of the service in the database that this is run in, and what they may do there. It is run by a superuser, or
-- by a role that may create roles and owns the database; it can be repeated. What the roles may do with each table is
-- for `export-runs migrate` to say, which the owner runs next. No role has a password yet, so nobody can enter as one.

DO $$
DECLARE
    role text;
    change text;
BEGIN
    FOREACH role IN ARRAY ARRAY['export_runs_owner', 'export_runs_worker', 'export_runs_auditor', 'export_runs_operator'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', role);
        END IF;
    END LOOP;

    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO export_runs_owner, export_runs_worker, export_runs_auditor, export_runs_operator',
        current_database()
    );
    -- To rebuild tables is to make a schema; to verify them is to make temporary tables.
    EXECUTE format('GRANT CREATE ON DATABASE %I TO export_runs_owner', current_database());
    EXECUTE format(
        'GRANT TEMPORARY ON DATABASE %I TO export_runs_owner, export_runs_auditor, export_runs_operator',
        current_database()
    );
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO export_runs_owner', current_schema());
    EXECUTE format(
        'GRANT USAGE ON SCHEMA %I TO export_runs_worker, export_runs_auditor, export_runs_operator', current_schema()
    );

    -- What was made before there were roles gets its owner. What belongs to an extension, or to a column, stays.
    FOR change IN
        SELECT format('ALTER TABLE %s OWNER TO export_runs_owner', oid::regclass)
        FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'S')
            AND pg_get_userbyid(relowner) <> 'export_runs_owner'
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype IN ('a', 'e', 'i'))
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO export_runs_owner', oid::regprocedure)
        FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND pg_get_userbyid(proowner) <> 'export_runs_owner'
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
        UNION ALL
        SELECT format('ALTER TYPE %s OWNER TO export_runs_owner', oid::regtype)
        FROM pg_type
        WHERE typnamespace = current_schema()::regnamespace AND typtype = 'e'
            AND pg_get_userbyid(typowner) <> 'export_runs_owner'
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_type.oid AND deptype = 'e')
    LOOP
        EXECUTE change;
    END LOOP;
END
$$;

-- To see whose transaction is in the way.
GRANT pg_read_all_stats TO export_runs_owner, export_runs_operator;
