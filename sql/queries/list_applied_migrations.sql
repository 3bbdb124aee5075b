SELECT version, name, sha256 FROM export_runs_migrations ORDER BY version
