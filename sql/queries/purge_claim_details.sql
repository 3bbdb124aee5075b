-- Remove what the events of a run said of its claims beside their outcomes.
DELETE FROM claim_details WHERE run_id = $1
