-- One lock for all claims. PostgreSQL has room for some thousand locks in all, so who has more claims takes this.
SELECT pg_advisory_xact_lock(1, 0)
