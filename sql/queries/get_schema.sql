-- The schema of the service's tables.
SELECT current_schema()::text
