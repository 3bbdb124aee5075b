-- Whether this transaction may not write: on a standby, or where an administrator has said so.
SELECT current_setting('transaction_read_only') = 'on'
