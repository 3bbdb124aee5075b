-- Which database this is, so that a copy of it that was restored elsewhere is noticed, and until when no claim is
-- granted after a restore.

CREATE TABLE database_identity (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    system_identifier  bigint NOT NULL,
    leases_oid         oid    NOT NULL,
    grants_held_until  timestamptz
);
COMMENT ON TABLE database_identity IS
    'The cluster and the table of leases for which this row was written. A restored dump has others.';

INSERT INTO database_identity (system_identifier, leases_oid)
SELECT system_identifier, 'claim_leases'::regclass::oid FROM pg_control_system();
