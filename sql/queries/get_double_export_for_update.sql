-- The record of one claim, locked until the transaction ends: no run joins it meanwhile. And the time.
SELECT *, clock_timestamp() AS now FROM double_exported_claims WHERE org_id = $1 AND claim_id = $2 FOR UPDATE
