-- One run, locked against the merge until the transaction ends.
SELECT * FROM export_runs WHERE run_id = $1 FOR UPDATE
