-- Of these runs, those that have claims already.
SELECT run_id
FROM unnest($1::uuid[]) AS asked (run_id)
WHERE EXISTS (SELECT FROM export_run_claims AS claim WHERE claim.run_id = asked.run_id)
