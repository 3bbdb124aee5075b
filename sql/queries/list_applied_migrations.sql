-- The migrations that this database has, in their order.
SELECT version, name, sha256 FROM export_runs_migrations ORDER BY version
