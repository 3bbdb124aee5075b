SELECT count(*) FROM peer_runs
