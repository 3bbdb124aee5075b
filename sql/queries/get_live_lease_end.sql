-- Until when a run holds claims, as far as its leases have not expired; NULL where it holds none.
SELECT max(expires_at) FROM claim_leases WHERE run_id = $1 AND org_id = $2 AND expires_at > clock_timestamp()
