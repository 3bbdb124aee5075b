-- Whether this is the one that publishes alerts now: one at a time keeps them in order.
SELECT pg_try_advisory_xact_lock(2, 0)
