-- Let the next fencing token be greater than any that was given before the restore: no more than one is given in a
-- microsecond, so the number of microseconds since 1970 is greater than all of them.
SELECT setval('claim_fencing_tokens', greatest(last_value, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint))
FROM claim_fencing_tokens
