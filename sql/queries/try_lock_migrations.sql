-- Whether this session is the one that migrates now. The lock lasts until it is given back, or the session ends.
SELECT pg_try_advisory_lock(hashtextextended('export-runs migrate', 0))
