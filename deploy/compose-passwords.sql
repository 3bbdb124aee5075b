-- The passwords of the owner and of the worker, for docker-compose.yml. Psql reads them from its environment.
\getenv owner EXPORT_RUNS_OWNER_PASSWORD
\getenv worker EXPORT_RUNS_WORKER_PASSWORD
ALTER ROLE export_runs_owner PASSWORD :'owner';
ALTER ROLE export_runs_worker PASSWORD :'worker';
