-- How long this transaction waits for a lock, and how long each of its statements may take, in milliseconds.
SELECT set_config('lock_timeout', $1::text, true), set_config('statement_timeout', $2::text, true)
