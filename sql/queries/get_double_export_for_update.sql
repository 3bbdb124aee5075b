-- One double export, locked until the transaction ends, and the time.
SELECT *, clock_timestamp() AS now FROM double_exports WHERE id = $1 FOR UPDATE
