-- One write request a run at a time, whether the run exists yet or not; held until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text, 0)), clock_timestamp() AS now
