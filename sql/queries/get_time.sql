-- The database's time, by which leases go.
SELECT clock_timestamp()
