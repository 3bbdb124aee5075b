-- Whether this database was restored from a dump of another, and nobody has run `export-runs after-restore` since.
SELECT (identity.system_identifier, identity.leases_oid)
    IS DISTINCT FROM (control.system_identifier, 'claim_leases'::regclass::oid) AS is_copy
FROM pg_control_system() AS control LEFT JOIN database_identity AS identity ON true
