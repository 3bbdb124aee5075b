-- This database is the one in use from now on, and grants no claim for so many seconds.
INSERT INTO database_identity (system_identifier, leases_oid, grants_held_until)
SELECT system_identifier, 'claim_leases'::regclass::oid, clock_timestamp() + make_interval(secs => $1::integer)
FROM pg_control_system()
ON CONFLICT (only_row) DO UPDATE SET
    system_identifier = excluded.system_identifier, leases_oid = excluded.leases_oid,
    grants_held_until = excluded.grants_held_until
RETURNING grants_held_until
