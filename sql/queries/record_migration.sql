-- Record that a migration was applied.
INSERT INTO export_runs_migrations (version, name, sha256) VALUES ($1, $2, $3)
