-- Until the transaction ends, PostgreSQL may read tables whole, and plans each statement for its values.
SELECT set_config('enable_seqscan', 'on', true), set_config('plan_cache_mode', 'auto', true)
