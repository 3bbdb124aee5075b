-- Which migrations this database has, each with the digest of its file.
CREATE TABLE IF NOT EXISTS export_runs_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
