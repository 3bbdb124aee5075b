SELECT EXISTS (SELECT FROM export_runs WHERE run_id = $1)
