"""PostgreSQL: the pool, what an error means, the migration runner."""
