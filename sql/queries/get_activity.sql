-- How large the database is, and since when its oldest transaction runs: it holds up the removal of dead rows, and
-- migrations. Without the role pg_read_all_stats only the transactions of one's own role are seen.
SELECT
    pg_database_size(current_database()) AS size_bytes,
    (
        SELECT min(xact_start) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    ) AS oldest_transaction_at
