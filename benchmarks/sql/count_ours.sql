SELECT count(*) FROM export_runs
