SELECT EXISTS (SELECT FROM peer_runs WHERE run_id = $1)
