-- Workers that start together migrate one after the other.
SELECT pg_advisory_xact_lock(hashtextextended('export-runs migrate', 0))
