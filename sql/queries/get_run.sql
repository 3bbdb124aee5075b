-- One run, as it stands.
SELECT * FROM export_runs WHERE run_id = $1
